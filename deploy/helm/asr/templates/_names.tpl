{{/* What things are called, and the labels by which they are found. */}}

{{- define "asr.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Short enough for the longest ending, "-service-pods", within the 63 characters of a DNS label. */}}
{{- define "asr.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains (include "asr.name" .) .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "asr.name" .) | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Takes (dict "root" $ "component" NAME); for selectors, which may never change. */}}
{{- define "asr.selector" -}}
app.kubernetes.io/name: {{ include "asr.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "asr.labels" -}}
{{ include "asr.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "asr.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "asr.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "asr.image" -}}
{{- $tag := .Values.image.tag | default .Values.device }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- /* Host names within the cluster: takes (dict "root" $ "of" NAME). */}}
{{- define "asr.host" -}}
{{ include "asr.fullname" .root }}-{{ .of }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{- define "asr.cacheClaim" -}}
{{ .Values.model.hub.cache.existingClaim | default (printf "%s-models" (include "asr.fullname" .)) }}
{{- end }}
