{{- /*
The rendered shape of foreign work, as an admission policy sees it. It is written against what Kubernetes lets a pod do, not
against our renderer, so that a mistake there is caught here. Gate 2 applies it to everybody in guest namespaces, gate 3 to our
operator everywhere.

Input: root, and `spec` and `meta`, the expressions under which the pod's spec and metadata are found.
*/}}
{{- define "koinon.shape.variables" -}}
- name: spec
  expression: {{ .spec }}
- name: labels
  expression: "has({{ .meta }}.labels) ? {{ .meta }}.labels : {}"
- name: annotations
  expression: "has({{ .meta }}.annotations) ? {{ .meta }}.annotations : {}"
# The NetworkPolicy probe is the only pod that is not an engine.
- name: isProbe
  expression: "'koinon.dev/part' in variables.labels && variables.labels['koinon.dev/part'] == 'probe'"
- name: inits
  expression: "has(variables.spec.initContainers) ? variables.spec.initContainers : []"
- name: containers
  expression: "variables.spec.containers + variables.inits"
- name: volumes
  expression: "has(variables.spec.volumes) ? variables.spec.volumes : []"
# Every probe of every container; lifecycle hooks are refused altogether.
- name: probes
  expression: >-
    variables.containers.filter(c, has(c.startupProbe)).map(c, c.startupProbe)
    + variables.containers.filter(c, has(c.readinessProbe)).map(c, c.readinessProbe)
    + variables.containers.filter(c, has(c.livenessProbe)).map(c, c.livenessProbe)
{{- end }}

{{- define "koinon.shape.validations" -}}
{{- $devices := list }}
{{- range .root.Values.gates.deviceResources }}
{{- if hasSuffix "-" . }}{{- $devices = append $devices (printf "k.startsWith('%s')" .) }}{{- else }}{{- $devices = append $devices (printf "k == '%s'" .) }}{{- end }}
{{- end }}
{{- $device := $devices | default (list "false") | join " || " }}
{{- $prefixes := list }}
{{- range .root.Values.gates.podAnnotationPrefixes }}{{- $prefixes = append $prefixes (printf "k.startsWith('%s')" .) }}{{- end }}
{{- $annotation := $prefixes | default (list "false") | join " || " }}
# ---- who it is
- expression: "variables.isProbe || ('koinon.dev/placement' in variables.labels && 'koinon.dev/part' in variables.labels && variables.labels['koinon.dev/part'] == 'engine')"
  message: a guest pod belongs to a Placement and is labelled koinon.dev/placement and koinon.dev/part
- expression: "variables.annotations.all(k, {{ $annotation }}) || (request.operation == 'UPDATE' && request.resource.resource == 'pods')"
  message: a guest pod is created with no annotation but those of gates.podAnnotationPrefixes, because some give devices away
- expression: "!variables.annotations.exists(k, k.startsWith('cdi.k8s.io/') || k.startsWith('container.apparmor.security.beta.kubernetes.io/') || k.startsWith('io.kubernetes.cri-o.') || k.startsWith('io.katacontainers.') || k == 'k8s.v1.cni.cncf.io/networks')"
  message: annotations that inject devices, networks or runtime settings are refused
# ---- whose it is and where it lives
- expression: "has(variables.spec.automountServiceAccountToken) && !variables.spec.automountServiceAccountToken"
  message: automountServiceAccountToken is false
- expression: "!has(variables.spec.serviceAccountName) || variables.spec.serviceAccountName in ['', 'default']"
  message: no service account but default
- expression: "has(variables.spec.enableServiceLinks) && !variables.spec.enableServiceLinks"
  message: enableServiceLinks is false
- expression: "!(has(variables.spec.hostNetwork) && variables.spec.hostNetwork) && !(has(variables.spec.hostPID) && variables.spec.hostPID) && !(has(variables.spec.hostIPC) && variables.spec.hostIPC)"
  message: host namespaces are refused
# ---- containers
- expression: "variables.isProbe ? (size(variables.inits) == 0 && size(variables.spec.containers) == 1 && variables.spec.containers[0].name == 'probe') : (size(variables.inits) == 1 && variables.inits[0].name == 'weights' && size(variables.spec.containers) == 1 && variables.spec.containers[0].name == 'engine')"
  message: a guest pod has the init container weights and the container engine, and no other
- expression: "!has(variables.spec.ephemeralContainers) || size(variables.spec.ephemeralContainers) == 0"
  message: ephemeral containers are refused
- expression: "variables.isProbe ? variables.spec.restartPolicy == 'Never' : (!has(variables.spec.restartPolicy) || variables.spec.restartPolicy == 'Always')"
  message: an engine pod restarts Always, a probe Never
- expression: "variables.containers.all(c, !has(c.restartPolicy))"
  message: sidecars are refused
- expression: "variables.containers.all(c, c.image.matches('^[^@ ]+@sha256:[0-9a-f]{64}$') || (c.name in ['weights', 'probe'] && c.image == '{{ include "koinon.image" .root }}'))"
  message: images are named by digest
- expression: "variables.containers.all(c, !has(c.command) || size(c.command) == 0)"
  message: containers run their image's entrypoint
- expression: "variables.inits.all(c, has(c.args) && size(c.args) >= 2 && c.args[0] == 'weights' && c.args[1] == 'copy') && (!variables.isProbe || variables.spec.containers.all(c, has(c.args) && size(c.args) >= 1 && c.args[0] == 'probe'))"
  message: the init container copies weights, and the probe probes
- expression: "variables.containers.all(c, !has(c.envFrom) || size(c.envFrom) == 0)"
  message: environment from ConfigMaps and Secrets is refused
- expression: "variables.containers.all(c, !has(c.env) || c.env.all(e, !has(e.valueFrom) && (e.name in ['HOME', 'TMPDIR'] || (e.name == 'NVIDIA_VISIBLE_DEVICES' && has(e.value) && e.value == 'void'))))"
  message: only HOME and TMPDIR are set, to plain values, because other variables give devices away
- expression: "variables.containers.all(c, !has(c.lifecycle))"
  message: lifecycle hooks are refused
- expression: "variables.probes.all(p, has(p.httpGet) && !has(p.exec) && !has(p.grpc) && !has(p.tcpSocket))"
  message: probes are HTTP
- expression: "variables.probes.all(p, !has(p.httpGet) || (!has(p.httpGet.host) && !has(p.httpGet.httpHeaders)))"
  message: probes ask the pod itself, without headers; a host there would make the kubelet call anybody
- expression: "variables.containers.all(c, !(has(c.stdin) && c.stdin) && !(has(c.tty) && c.tty))"
  message: terminals are refused
- expression: "variables.inits.all(c, !has(c.ports) || size(c.ports) == 0) && variables.spec.containers.all(c, !has(c.ports) || size(c.ports) <= 1)"
  message: only the engine has a port, and only one
- expression: "variables.spec.containers.all(c, !has(c.ports) || c.ports.all(p, (!has(p.hostPort) || p.hostPort == 0) && !has(p.hostIP) && (!has(p.protocol) || p.protocol == 'TCP') && p.containerPort >= 1024))"
  message: host ports, host addresses, UDP and ports below 1024 are refused
# ---- what it may use
- expression: "variables.containers.all(c, has(c.resources) && has(c.resources.limits) && has(c.resources.requests) && 'cpu' in c.resources.limits && 'memory' in c.resources.limits && c.resources.limits == c.resources.requests)"
  message: requests equal limits, and both name cpu and memory
- expression: "variables.containers.all(c, !has(c.resources) || !has(c.resources.limits) || c.resources.limits.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || (c.name == 'engine' && ({{ $device }}))))"
  message: only the engine has devices, and only those of gates.deviceResources
- expression: >-
    !has(variables.spec.resourceClaims) || (!variables.isProbe && size(variables.spec.resourceClaims) == 1 && variables.spec.resourceClaims.all(r,
    r.name == 'gpus' && !has(r.resourceClaimName) && has(r.resourceClaimTemplateName)
    && 'koinon.dev/placement' in variables.labels && r.resourceClaimTemplateName == variables.labels['koinon.dev/placement']))
  message: the only resource claim is the one on GPUs, made from the template of its own Placement; existing claims are refused
- expression: >-
    variables.containers.all(c, !has(c.resources) || !has(c.resources.claims) || (c.name == 'engine'
    && size(c.resources.claims) == 1 && c.resources.claims.all(r, r.name == 'gpus' && !has(r.request))))
  message: only the engine has a resource claim, and all of it
- expression: "variables.volumes.all(v, has(v.emptyDir))"
  message: volumes are emptyDirs
- expression: "size(variables.volumes) <= 20 && variables.volumes.all(v, !has(v.emptyDir) || (has(v.emptyDir.sizeLimit) && (!has(v.emptyDir.medium) || v.emptyDir.medium in ['', 'Memory'])))"
  message: volumes have a size limit, on disk or in memory
- expression: "variables.containers.all(c, !has(c.volumeDevices) && (!has(c.volumeMounts) || c.volumeMounts.all(m, !has(m.subPath) && !has(m.subPathExpr) && (!has(m.mountPropagation) || m.mountPropagation == 'None'))))"
  message: mounts are plain
- expression: "variables.spec.containers.all(c, c.name != 'engine' || !has(c.volumeMounts) || c.volumeMounts.all(m, m.name != 'models' || (has(m.readOnly) && m.readOnly)))"
  message: the engine reads the weights and does not write them
# ---- what it may do
- expression: "!(has(variables.spec.shareProcessNamespace) && variables.spec.shareProcessNamespace)"
  message: containers share no processes
- expression: "has(variables.spec.securityContext) && has(variables.spec.securityContext.runAsNonRoot) && variables.spec.securityContext.runAsNonRoot && has(variables.spec.securityContext.runAsUser) && variables.spec.securityContext.runAsUser > 0"
  message: the pod runs as a named user that is not root
- expression: "!has(variables.spec.securityContext) || ((!has(variables.spec.securityContext.runAsGroup) || variables.spec.securityContext.runAsGroup > 0) && (!has(variables.spec.securityContext.fsGroup) || variables.spec.securityContext.fsGroup > 0) && !has(variables.spec.securityContext.supplementalGroups))"
  message: root's groups and further groups are refused
- expression: "has(variables.spec.securityContext) && has(variables.spec.securityContext.seccompProfile) && variables.spec.securityContext.seccompProfile.type == 'RuntimeDefault' && !has(variables.spec.securityContext.sysctls) && !has(variables.spec.securityContext.seLinuxOptions) && !has(variables.spec.securityContext.appArmorProfile) && !has(variables.spec.securityContext.windowsOptions)"
  message: the pod has seccomp RuntimeDefault, and no sysctls, SELinux, AppArmor or Windows options
- expression: "variables.containers.all(c, has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation) && !c.securityContext.allowPrivilegeEscalation && !(has(c.securityContext.privileged) && c.securityContext.privileged))"
  message: privileges and their escalation are refused
- expression: "variables.containers.all(c, has(c.securityContext) && has(c.securityContext.readOnlyRootFilesystem) && c.securityContext.readOnlyRootFilesystem)"
  message: root file systems are read-only
- expression: "variables.containers.all(c, has(c.securityContext) && has(c.securityContext.capabilities) && has(c.securityContext.capabilities.drop) && 'ALL' in c.securityContext.capabilities.drop && !has(c.securityContext.capabilities.add))"
  message: all capabilities are dropped and none is added
- expression: "variables.containers.all(c, !has(c.securityContext) || ((!has(c.securityContext.runAsNonRoot) || c.securityContext.runAsNonRoot) && (!has(c.securityContext.runAsUser) || c.securityContext.runAsUser > 0) && (!has(c.securityContext.runAsGroup) || c.securityContext.runAsGroup > 0)))"
  message: no container runs as root
- expression: "variables.containers.all(c, !has(c.securityContext) || ((!has(c.securityContext.seccompProfile) || c.securityContext.seccompProfile.type == 'RuntimeDefault') && (!has(c.securityContext.procMount) || c.securityContext.procMount == 'Default') && !has(c.securityContext.seLinuxOptions) && !has(c.securityContext.appArmorProfile) && !has(c.securityContext.windowsOptions)))"
  message: no container loosens seccomp, /proc, SELinux or AppArmor
# ---- where it goes
- expression: "!has(variables.spec.hostAliases) && !has(variables.spec.hostname) && !has(variables.spec.subdomain)"
  message: host names and aliases are refused
- expression: "(!has(variables.spec.dnsPolicy) || variables.spec.dnsPolicy in ['ClusterFirst', 'Default', 'None']) && (!has(variables.spec.dnsConfig) || (has(variables.spec.dnsPolicy) && variables.spec.dnsPolicy == 'None'))"
  message: DNS settings of its own are refused
- expression: "!has(variables.spec.schedulerName) || variables.spec.schedulerName == 'default-scheduler'"
  message: the cluster's scheduler places it
- expression: "!has(variables.spec.affinity) && !has(variables.spec.topologySpreadConstraints) && (!has(variables.spec.nodeSelector) || variables.spec.nodeSelector.all(k, k == 'kubernetes.io/hostname'))"
  message: it is placed by the name of its node alone
- expression: "!has(variables.spec.priorityClassName) || !variables.spec.priorityClassName.startsWith('system-')"
  message: the system's priority classes are refused
- expression: "!has(variables.spec.schedulingGates) && !has(variables.spec.readinessGates)"
  message: scheduling and readiness gates are refused
- expression: "!has(variables.spec.terminationGracePeriodSeconds) || variables.spec.terminationGracePeriodSeconds <= 120"
  message: it ends within the two minutes in which the owner gets its GPUs back
{{- end }}

{{- /* What a claim on GPUs looks like. Input: root, and `spec`, the expression under which the claim's spec is found. A request with
admin access would give a device that somebody else holds; configuration goes to the driver as it is, and could share one. */}}
{{- define "koinon.shape.claim" -}}
{{- $classes := list }}
{{- range .root.Values.gates.deviceClasses }}{{- $classes = append $classes (printf "'%s'" .) }}{{- end }}
- expression: "has({{ .spec }}.devices) && has({{ .spec }}.devices.requests) && size({{ .spec }}.devices.requests) == 1 && {{ .spec }}.devices.requests.all(r, r.name == 'gpus' && has(r.exactly) && !has(r.firstAvailable))"
  message: a claim has one request, gpus, for exactly one kind of device
- expression: "!has({{ .spec }}.devices.config) && !has({{ .spec }}.devices.constraints)"
  message: a claim configures no devices, and sets no constraints
- expression: "{{ .spec }}.devices.requests.all(r, !has(r.exactly) || r.exactly.deviceClassName in [{{ join ", " $classes }}])"
  message: claims are on devices of gates.deviceClasses only
- expression: "{{ .spec }}.devices.requests.all(r, !has(r.exactly) || !has(r.exactly.adminAccess))"
  message: admin access to devices of others is refused
- expression: "{{ .spec }}.devices.requests.all(r, !has(r.exactly) || ((!has(r.exactly.allocationMode) || r.exactly.allocationMode == 'ExactCount') && (!has(r.exactly.count) || r.exactly.count <= 64)))"
  message: a claim is on a number of devices, at most 64
- expression: "{{ .spec }}.devices.requests.all(r, !has(r.exactly) || (!has(r.exactly.tolerations) && !has(r.exactly.capacity)))"
  message: a claim tolerates no taints of devices, and takes whole ones
{{- end }}

{{- /* What a Service before an engine looks like. */}}
{{- define "koinon.shape.service" -}}
- expression: "(!has(object.spec.type) || object.spec.type == 'ClusterIP') && !has(object.spec.externalName) && !has(object.spec.externalIPs) && !has(object.spec.loadBalancerIP)"
  message: Services are reachable from inside the cluster only
- expression: "has(object.spec.selector) && 'koinon.dev/placement' in object.spec.selector"
  message: a Service leads to the pods of a Placement
- expression: "!has(object.spec.ports) || size(object.spec.ports) <= 1"
  message: a Service has one port
{{- end }}

{{- /* What a NetworkPolicy for engines looks like: the gateway in, the weights cache out. Policies add up, so one that says more
would undo all others. */}}
{{- define "koinon.shape.networkpolicy" -}}
- expression: >-
    !has(object.spec.ingress) || object.spec.ingress.all(r, has(r.from) && size(r.from) > 0 && r.from.all(p,
    !has(p.ipBlock) && has(p.namespaceSelector) && !has(p.namespaceSelector.matchExpressions)
    && has(p.namespaceSelector.matchLabels) && 'kubernetes.io/metadata.name' in p.namespaceSelector.matchLabels
    && p.namespaceSelector.matchLabels['kubernetes.io/metadata.name'] == variables.release
    && has(p.podSelector) && has(p.podSelector.matchLabels) && 'app.kubernetes.io/component' in p.podSelector.matchLabels
    && p.podSelector.matchLabels['app.kubernetes.io/component'] == 'gateway'))
  message: only Koinon's gateway comes in
- expression: >-
    !has(object.spec.egress) || object.spec.egress.all(r, has(r.to) && size(r.to) > 0 && r.to.all(p,
    !has(p.ipBlock) && has(p.namespaceSelector) && !has(p.namespaceSelector.matchExpressions)
    && has(p.namespaceSelector.matchLabels) && 'kubernetes.io/metadata.name' in p.namespaceSelector.matchLabels
    && p.namespaceSelector.matchLabels['kubernetes.io/metadata.name'] == variables.release
    && has(p.podSelector) && has(p.podSelector.matchLabels) && 'app.kubernetes.io/component' in p.podSelector.matchLabels
    && p.podSelector.matchLabels['app.kubernetes.io/component'] == 'weights')
    && has(r.ports) && r.ports.all(p, has(p.port) && string(p.port) == '8081' && !has(p.endPort)))
  message: only Koinon's weights cache is reached
{{- end }}
