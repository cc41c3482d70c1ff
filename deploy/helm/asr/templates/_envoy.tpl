{{/* Envoy's configuration: docker/proxy/envoy.yaml, which the tests run, with this release's names, ports and values. */}}

{{- define "asr.envoyConfig" -}}
{{- $config := .Files.Get "files/envoy.yaml" | fromYaml }}
{{- if not $config.static_resources }}{{ fail (printf "files/envoy.yaml: %v" $config.Error) }}{{ end }}
{{- $tls := ne .Values.proxy.tls.secretName "" }}
{{- $bridges := ne .Values.bridge.mode "none" }}
{{- /* Time-outs have to be longer than the service's and the bridge's own. */}}
{{- $quiet := add 30 (.Values.service.settings.ASR_IDLE_TIMEOUT_S | default 300 | float64 | ceil | int) }}
{{- $pings := add 15 (mul 3 (.Values.bridge.settings.ASR_BRIDGE_PING_S | default 20 | float64 | ceil | int)) }}
{{- $listeners := list }}
{{- range $listener := $config.static_resources.listeners }}
{{- if or (eq $listener.name "grpc") (and $tls (eq $listener.name "tls")) (and $bridges (not $tls) (eq $listener.name "websocket")) }}
{{- range $chain := $listener.filter_chains }}
{{- range $filter := $chain.filters }}
{{- $http := $filter.typed_config }}
{{- if $http.stream_idle_timeout }}{{ $_ := set $http "stream_idle_timeout" (printf "%ds" $quiet) }}{{ end }}
{{- range $virtual := $http.route_config.virtual_hosts }}
{{- $routes := list }}
{{- range $route := $virtual.routes }}
{{- if or $bridges (ne $route.route.cluster "bridges") }}
{{- $_ := set $route.route.retry_policy "num_retries" $.Values.proxy.retries }}
{{- if and (eq $route.route.cluster "bridges") (eq (toString $route.route.idle_timeout) "75s") }}
{{- $_ := set $route.route "idle_timeout" (printf "%ds" $pings) }}
{{- end }}
{{- $routes = append $routes $route }}
{{- end }}
{{- end }}
{{- $_ := set $virtual "routes" $routes }}
{{- end }}
{{- end }}
{{- end }}
{{- $listeners = append $listeners $listener }}
{{- end }}
{{- end }}
{{- $listeners = append $listeners (include "asr.envoyProbes" . | fromYaml) }}
{{- $_ := set $config.static_resources "listeners" $listeners }}
{{- $clusters := list }}
{{- range $cluster := $config.static_resources.clusters }}
{{- if or $bridges (ne $cluster.name "bridges") }}
{{- $isBridge := eq $cluster.name "bridges" }}
{{- $pods := (and $isBridge (eq $.Values.bridge.mode "apart")) | ternary "bridge" "service" }}
{{- $host := include "asr.host" (dict "root" $ "of" (printf "%s-pods" $pods)) }}
{{- $address := dict "address" $host "port_value" ($isBridge | ternary 8080 50051) }}
{{- $endpoint := dict "endpoint" (dict "address" (dict "socket_address" $address)) }}
{{- $_ := set $cluster.load_assignment "endpoints" (list (dict "lb_endpoints" (list $endpoint))) }}
{{- $secret := $isBridge | ternary $.Values.bridge.tls.secretName $.Values.service.tls.secretName }}
{{- if $secret }}
{{- $what := $isBridge | ternary "bridge" "service" }}
{{- $_ := set $cluster "transport_socket" (include "asr.envoyUpstreamTls" (dict "what" $what "host" (include "asr.host" (dict "root" $ "of" $what)) "alpn" ($isBridge | ternary "http/1.1" "h2")) | fromYaml) }}
{{- end }}
{{- $clusters = append $clusters $cluster }}
{{- end }}
{{- end }}
{{- $clusters = append $clusters (include "asr.envoyAdmin" . | fromYaml) }}
{{- $_ := set $config.static_resources "clusters" $clusters }}
{{- toYaml $config }}
{{- end }}

{{- /* TLS to an instance, whose certificate is for the name of its Service, and vouched for by its Secret's ca.crt. */}}
{{- define "asr.envoyUpstreamTls" -}}
name: envoy.transport_sockets.tls
typed_config:
  "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
  sni: {{ .host }}
  common_tls_context:
    alpn_protocols: [{{ .alpn }}]
    combined_validation_context:
      default_validation_context:
        match_typed_subject_alt_names:
          - { san_type: DNS, matcher: { exact: {{ .host }} } }
      # Of a file of its own, so that it is read again when the Secret is renewed: an authority may change with it.
      validation_context_sds_secret_config:
        name: {{ .what }}-ca
        sds_config:
          path_config_source:
            path: /etc/envoy/envoy-{{ .what }}-ca.yaml
            watched_directory: { path: /etc/envoy }
          resource_api_version: V3
{{- end }}

{{- define "asr.envoyUpstreamCa" -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: {{ .what }}-ca
    validation_context:
      trusted_ca: { filename: /etc/envoy/{{ .what }}-ca/ca.crt }
      watched_directory: { path: /etc/envoy/{{ .what }}-ca }
{{- end }}

{{- /* What the kubelet and Prometheus may ask of the administration's port, which itself is for this pod alone. */}}
{{- define "asr.envoyProbes" -}}
name: probes
address: { socket_address: { address: 0.0.0.0, port_value: 9902 } }
# It answers while the others drain.
drain_type: MODIFY_ONLY
filter_chains:
  - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: probes
          http_filters:
            - name: envoy.filters.http.router
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: probes
            virtual_hosts:
              - name: probes
                domains: ["*"]
                routes:
                  - { match: { path: /ready }, route: { cluster: admin } }
                  - { match: { path: /server_info }, route: { cluster: admin } }
                  - { match: { path: /stats/prometheus }, route: { cluster: admin } }
{{- end }}

{{- define "asr.envoyAdmin" -}}
name: admin
type: STATIC
connect_timeout: 1s
load_assignment:
  cluster_name: admin
  endpoints:
    - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }
{{- end }}
