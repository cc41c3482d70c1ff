{{/* What all pods have in common. Each takes (dict "root" $ "component" NAME "values" VALUES OF THAT COMPONENT). */}}

{{- define "asr.podMetadata" -}}
labels:
  {{- include "asr.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "asr.placement" -}}
serviceAccountName: {{ include "asr.serviceAccountName" .root }}
# None of the programs asks Kubernetes anything.
automountServiceAccountToken: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "asr.selector" $ | nindent 8 }}
    # Of each release of the pods by itself: old ones that drain do not push new ones together.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{- /* Fields that are set to null are the platform's to choose. */}}
{{- define "asr.securityContext" -}}
{{- $chosen := dict }}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $chosen $name $value }}{{ end }}
{{- end }}
{{- toYaml $chosen }}
{{- end }}

{{- /* Settings of a program as variables: takes (dict "settings" MAP "own" LIST "where" PATH); the chart's own are refused. */}}
{{- define "asr.settings" -}}
{{- range $name, $value := .settings }}
{{- if has $name $.own }}
{{- fail (printf "%s.%s: the chart sets this itself; docs/deploy.md names the value for it" $.where $name) }}
{{- end }}
- name: {{ $name }}
  value: {{ include "asr.text" $value | quote }}
{{- end }}
{{- end }}

{{- /* Whole numbers as they were written: Helm reads 1000000 as a float, and would write 1e+06. */}}
{{- define "asr.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- /* How long a pod has to end: takes (dict "root" $ "seconds" NUMBER). Its last words are to be spoken, too. */}}
{{- define "asr.gracePeriod" -}}
{{ add .root.Values.preStopSeconds .seconds 20 }}
{{- end }}

{{- /* Of a probe for life: a program that hangs hears no SIGTERM, and would keep its pod for all the time of a drain. */}}
{{- define "asr.graceOfHung" -}}
terminationGracePeriodSeconds: 30
{{- end }}

{{- /* Pods of a deployment: takes (dict "root" $ "name" NAME "replicas" NUMBER "scaled" BOOLEAN). Where others scale it, it
has as many as it has now: without a number, Kubernetes makes it one when autoscaling is turned on in a release. */}}
{{- define "asr.replicas" -}}
{{- if not .scaled }}
replicas: {{ .replicas }}
{{- else }}
{{- with lookup "apps/v1" "Deployment" .root.Release.Namespace .name }}
replicas: {{ .spec.replicas }}
{{- end }}
{{- end }}
{{- end }}

{{- /* How pods are replaced: `rollingUpdate` comes with the chart's own values, and goes with one type alone. */}}
{{- define "asr.strategy" -}}
{{- if eq (.type | default "RollingUpdate") "RollingUpdate" }}
{{- toYaml . }}
{{- else }}
{{- toYaml (omit . "rollingUpdate") }}
{{- end }}
{{- end }}

{{- define "asr.preStop" -}}
{{- if .Values.preStopSeconds }}
lifecycle:
  preStop:
    # It admits streams until the news that it is about to go has come to everybody.
    sleep: { seconds: {{ .Values.preStopSeconds }} }
{{- end }}
{{- end }}

{{- define "asr.disruptionBudget" -}}
{{- $budget := .values.disruptionBudget | default dict }}
{{- /* Kubernetes takes one of both, and `maxUnavailable` comes with the chart's own values. */}}
{{- if hasKey $budget "minAvailable" }}{{ $budget = omit $budget "maxUnavailable" }}{{ end }}
{{- if $budget }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "asr.fullname" .root }}-{{ .component }}
  labels:
    {{- include "asr.labels" . | nindent 4 }}
spec:
  {{- toYaml $budget | nindent 2 }}
  # One that does not serve holds nobody's streams.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "asr.selector" . | nindent 6 }}
{{- end }}
{{- end }}
