{{- /* The names of parts are fixed, so that another part, a runbook and `kubectl koinon` find them without a look-up. */}}

{{- define "koinon.image" -}}
{{- $repository := required "image.repository is empty: build the image with `cargo xtask images`, push it to a registry of yours and name it with --set image.repository=" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* Cluster-scoped names carry the release namespace: a second cooperative is a second release. */}}
{{- define "koinon.clusterName" -}}
koinon-{{ .part }}.{{ .root.Release.Namespace }}
{{- end }}

{{- define "koinon.selectorLabels" -}}
app.kubernetes.io/name: koinon
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "koinon.labels" -}}
{{ include "koinon.selectorLabels" . }}
app.kubernetes.io/part-of: koinon
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "koinon.podMetadata" -}}
labels:
  {{- include "koinon.labels" . | nindent 2 }}
{{- $annotations := dict "kubectl.kubernetes.io/default-container" .part }}
{{- if .root.Values.metrics.podAnnotations }}
{{- $_ := set $annotations "prometheus.io/scrape" "true" }}
{{- $_ := set $annotations "prometheus.io/port" (toString .metricsPort) }}
{{- end }}
annotations:
  {{- toYaml (merge $annotations .values.podAnnotations) | nindent 2 }}
{{- end }}

{{- define "koinon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "koinon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "koinon.env" -}}
- {name: KOINON_LOG_FORMAT, value: {{ .root.Values.log.format | quote }}}
- {name: KOINON_LOG, value: {{ .root.Values.log.filter | quote }}}
- name: KOINON_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: KOINON_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "koinon.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- define "koinon.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "koinon.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What Services of all kinds have in common. */}}
{{- define "koinon.serviceSpec" -}}
type: {{ .service.type }}
{{- if ne .service.type "ClusterIP" }}
externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
{{- end }}
{{- with .service.loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
ports:
- name: {{ .port }}
  port: {{ .service.port }}
  targetPort: {{ .port }}
  protocol: TCP
  {{- if and (ne .service.type "ClusterIP") .service.nodePort }}
  nodePort: {{ .service.nodePort }}
  {{- end }}
{{- end }}
