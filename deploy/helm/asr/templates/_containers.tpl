{{/* The two programs as containers, and what they mount. */}}

{{- define "asr.serviceContainer" -}}
{{- $tls := .Values.service.tls }}
- name: service
  image: {{ include "asr.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [service]
  env:
    - name: ASR_MODEL
      value: {{ .Values.model.name | quote }}
    - name: ASR_DEVICE
      value: {{ include "asr.devices" . }}
    - name: ASR_GRPC_PORT
      value: "50051"
    - name: ASR_METRICS_PORT
      value: "9464"
    - name: ASR_METRICS_HOST
      value: "0.0.0.0"
    - name: ASR_DRAIN_S
      value: {{ .Values.service.drainSeconds | quote }}
    {{- if not (hasKey .Values.service.settings "ASR_LOG_FORMAT") }}
    - name: ASR_LOG_FORMAT
      value: json
    {{- end }}
    {{- if $tls.secretName }}
    - name: ASR_TLS_CERT
      value: /etc/asr/tls/tls.crt
    - name: ASR_TLS_KEY
      value: /etc/asr/tls/tls.key
    {{- end }}
    {{- if $tls.clientCaSecretName }}
    - name: ASR_TLS_CLIENT_CA
      value: /etc/asr/client-ca/ca.crt
    {{- end }}
    {{- if .Values.apiKeys.secretName }}
    - name: ASR_API_KEYS_FILE
      value: /etc/asr/keys/{{ .Values.apiKeys.key }}
    {{- end }}
    {{- if eq .Values.model.source "hub" }}
    {{- with .Values.model.hub.endpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with .Values.model.hub.tokenSecret }}
    {{- if .name }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
    {{- end }}
    {{- end }}
    {{- else }}
    # Nothing is to be fetched: what is not there is an error at once.
    - name: HF_HUB_OFFLINE
      value: "1"
    {{- end }}
    {{- $own := list "ASR_MODEL" "ASR_DEVICE" "ASR_GRPC_PORT" "ASR_METRICS_PORT" "ASR_METRICS_HOST" "ASR_DRAIN_S" "ASR_TLS_CERT" "ASR_TLS_KEY" "ASR_TLS_CLIENT_CA" "ASR_API_KEYS_FILE" }}
    {{- include "asr.settings" (dict "settings" .Values.service.settings "own" $own "where" "service.settings") | nindent 4 }}
    {{- with .Values.service.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - { name: grpc, containerPort: 50051 }
    - { name: metrics, containerPort: 9464 }
  {{- with .Values.probes.startupSeconds }}
  startupProbe:
    # Until the model is made and warm, nothing else is asked.
    httpGet: { path: /healthz, port: metrics }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div (add . 4) 5 }}
  {{- end }}
  readinessProbe:
    httpGet: { path: /healthz, port: metrics }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  livenessProbe:
    # It says no only where the supervisor hangs: not while a model loads, streams drain or an engine starts again.
    httpGet: { path: /livez, port: metrics }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ .Values.probes.livenessFailures }}
    {{- include "asr.graceOfHung" . | nindent 4 }}
  {{- include "asr.preStop" . | nindent 2 }}
  resources:
    {{- $resources := deepCopy .Values.service.resources }}
    {{- if eq .Values.device "cuda" }}
    {{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .Values.service.gpus) (get $resources "limits" | default dict)) }}
    {{- end }}
    {{- if and (eq .Values.device "cpu") (dig "requests" "cpu" "" $resources) }}
    {{- $_ := set $resources "limits" (merge (get $resources "limits" | default dict) (dict "cpu" $resources.requests.cpu)) }}
    {{- end }}
    {{- toYaml $resources | nindent 4 }}
  securityContext:
    {{- include "asr.securityContext" .Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - { name: tmp, mountPath: /tmp }
    {{- if eq .Values.model.source "hub" }}
    - { name: models, mountPath: /var/lib/asr/models }
    {{- else if eq .Values.model.source "volume" }}
    - { name: model, mountPath: {{ .Values.model.volume.mountPath | quote }}, readOnly: true }
    {{- end }}
    {{- if $tls.secretName }}
    - { name: tls, mountPath: /etc/asr/tls, readOnly: true }
    {{- end }}
    {{- if $tls.clientCaSecretName }}
    - { name: client-ca, mountPath: /etc/asr/client-ca, readOnly: true }
    {{- end }}
    {{- if .Values.apiKeys.secretName }}
    - { name: keys, mountPath: /etc/asr/keys, readOnly: true }
    {{- end }}
{{- end }}

{{- define "asr.devices" -}}
{{- if eq .Values.device "cpu" }}cpu
{{- else }}
{{- $devices := list }}
{{- range $number := until (int .Values.service.gpus) }}{{ $devices = append $devices (printf "cuda:%d" $number) }}{{ end }}
{{- join "," $devices }}
{{- end }}
{{- end }}

{{- define "asr.serviceVolumes" -}}
- name: tmp
  emptyDir: { sizeLimit: 1Gi }
{{- if eq .Values.model.source "hub" }}
- name: models
  {{- if eq .Values.model.hub.cache.type "pvc" }}
  persistentVolumeClaim: { claimName: {{ include "asr.cacheClaim" . }} }
  {{- else }}
  emptyDir: { sizeLimit: {{ .Values.model.hub.cache.size | quote }} }
  {{- end }}
{{- else if eq .Values.model.source "volume" }}
- name: model
  {{- toYaml .Values.model.volume.source | nindent 2 }}
{{- end }}
{{- with .Values.service.tls.secretName }}
- name: tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- with .Values.service.tls.clientCaSecretName }}
- name: client-ca
  secret: { secretName: {{ . }}, defaultMode: 0440, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
{{- with .Values.apiKeys.secretName }}
- name: keys
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- end }}

{{- define "asr.bridgeContainer" -}}
{{- $tls := .Values.bridge.tls }}
- name: bridge
  image: {{ include "asr.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [bridge]
  env:
    - name: ASR_PORT
      value: "8080"
    - name: ASR_GRPC_TARGET
      value: {{ include "asr.grpcTarget" . | quote }}
    - name: ASR_BRIDGE_METRICS_PORT
      value: "9465"
    - name: ASR_BRIDGE_METRICS_HOST
      value: "0.0.0.0"
    - name: ASR_DRAIN_S
      value: {{ .Values.service.drainSeconds | quote }}
    - name: ASR_BRIDGE_CLOSE_S
      value: {{ .Values.bridge.closeSeconds | quote }}
    {{- if not (hasKey .Values.bridge.settings "ASR_LOG_FORMAT") }}
    - name: ASR_LOG_FORMAT
      value: json
    {{- end }}
    {{- if $tls.secretName }}
    - name: ASR_BRIDGE_TLS_CERT
      value: /etc/asr/bridge-tls/tls.crt
    - name: ASR_BRIDGE_TLS_KEY
      value: /etc/asr/bridge-tls/tls.key
    {{- end }}
    {{- if eq (include "asr.bridgeSpeaksTls" .) "true" }}
    - name: ASR_GRPC_CA
      value: /etc/asr/service-ca/ca.crt
    {{- if $tls.clientSecretName }}
    - name: ASR_GRPC_CERT
      value: /etc/asr/client-tls/tls.crt
    - name: ASR_GRPC_KEY
      value: /etc/asr/client-tls/tls.key
    {{- end }}
    {{- end }}
    {{- $own := list "ASR_PORT" "ASR_GRPC_TARGET" "ASR_BRIDGE_METRICS_PORT" "ASR_BRIDGE_METRICS_HOST" "ASR_DRAIN_S" "ASR_BRIDGE_CLOSE_S" "ASR_BRIDGE_TLS_CERT" "ASR_BRIDGE_TLS_KEY" "ASR_GRPC_CA" "ASR_GRPC_CERT" "ASR_GRPC_KEY" }}
    {{- include "asr.settings" (dict "settings" .Values.bridge.settings "own" $own "where" "bridge.settings") | nindent 4 }}
    {{- with .Values.bridge.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - { name: websocket, containerPort: 8080 }
    - { name: bridge-metrics, containerPort: 9465 }
  startupProbe:
    # It starts without its service, and within seconds.
    httpGet: { path: /livez, port: bridge-metrics }
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: 60
  readinessProbe:
    # It reaches a service that serves.
    httpGet: { path: /readyz, port: websocket, scheme: {{ empty $tls.secretName | ternary "HTTP" "HTTPS" }} }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  livenessProbe:
    # It says no only where the event loop hangs, or with several workers the process that watches them.
    httpGet: { path: /livez, port: bridge-metrics }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ .Values.probes.livenessFailures }}
    {{- include "asr.graceOfHung" . | nindent 4 }}
  {{- include "asr.preStop" . | nindent 2 }}
  resources:
    {{- toYaml .Values.bridge.resources | nindent 4 }}
  securityContext:
    {{- include "asr.securityContext" .Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - { name: bridge-tmp, mountPath: /tmp }
    {{- if $tls.secretName }}
    - { name: bridge-tls, mountPath: /etc/asr/bridge-tls, readOnly: true }
    {{- end }}
    {{- if eq (include "asr.bridgeSpeaksTls" .) "true" }}
    - { name: service-ca, mountPath: /etc/asr/service-ca, readOnly: true }
    {{- if $tls.clientSecretName }}
    - { name: client-tls, mountPath: /etc/asr/client-tls, readOnly: true }
    {{- end }}
    {{- end }}
{{- end }}

{{- /* Whether the bridge's target speaks TLS: the service's own port does, Envoy's port for the cluster does not. */}}
{{- define "asr.bridgeSpeaksTls" -}}
{{- $throughEnvoy := and (eq .Values.bridge.mode "apart") (eq .Values.proxy.kind "envoy") (not .Values.bridge.grpcTarget) }}
{{- and (ne .Values.service.tls.secretName "") (not $throughEnvoy) }}
{{- end }}

{{- define "asr.grpcTarget" -}}
{{- if .Values.bridge.grpcTarget }}{{ .Values.bridge.grpcTarget }}
{{- else if eq .Values.bridge.mode "sidecar" }}localhost:50051
{{- else if eq .Values.proxy.kind "envoy" }}{{ include "asr.host" (dict "root" . "of" "proxy") }}:50051
{{- else }}{{ include "asr.host" (dict "root" . "of" "service") }}:50051
{{- end }}
{{- end }}

{{- define "asr.bridgeVolumes" -}}
- name: bridge-tmp
  emptyDir: { sizeLimit: {{ .Values.bridge.tmpSize | quote }} }
{{- with .Values.bridge.tls.secretName }}
- name: bridge-tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- if eq (include "asr.bridgeSpeaksTls" .) "true" }}
- name: service-ca
  secret: { secretName: {{ .Values.service.tls.secretName }}, defaultMode: 0440, items: [{ key: ca.crt, path: ca.crt }] }
{{- with .Values.bridge.tls.clientSecretName }}
- name: client-tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- end }}
{{- end }}
