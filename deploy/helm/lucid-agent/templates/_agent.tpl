{{/* The containers before the model: the quote helper where there is hardware, and the agent. */}}
{{- define "lucid.sidecars" -}}
{{- if ne .Values.tee.mode "simulated" }}
- name: quote-helper
  image: {{ include "lucid.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: [lucid-agent, quote-helper, --listen, /run/lucid-quote/quote.sock, --user, "65532"]
  securityContext:
    {{- include "lucid.restricted" . | replace "runAsNonRoot: true" "runAsNonRoot: false" | replace "65532" "0" | nindent 4 }}
  startupProbe:
    exec:
      command: [python, -c, "import os, sys; sys.exit(not os.path.exists('/run/lucid-quote/quote.sock'))"]
    periodSeconds: 1
    failureThreshold: 30
  livenessProbe:
    exec:
      command: [python, -c, "import os, sys; sys.exit(not os.path.exists('/run/lucid-quote/quote.sock'))"]
    periodSeconds: 30
  readinessProbe:
    exec:
      command: [python, -c, "import os, sys; sys.exit(not os.path.exists('/run/lucid-quote/quote.sock'))"]
    periodSeconds: 30
  resources:
    {{- toYaml .Values.tee.helper.resources | nindent 4 }}
  volumeMounts:
    - {name: quote, mountPath: /run/lucid-quote}
    - {name: configfs, mountPath: /sys/kernel/config}
{{- end }}
- name: agent
  image: {{ include "lucid.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: [lucid-agent, run, --config, /etc/lucid/config/agent.toml]
  env:
    - name: LUCID_AGENT_ID
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    {{- range $name, $value := .Values.agent.environment }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
  ports:
    - {name: gateway, containerPort: 8080}
    - {name: metrics, containerPort: 9464}
  securityContext:
    {{- include "lucid.restricted" . | nindent 4 }}
  startupProbe:
    httpGet: {path: /readyz, port: metrics}
    periodSeconds: 2
    failureThreshold: 90
  readinessProbe:
    httpGet: {path: /readyz, port: metrics}
    periodSeconds: 5
    failureThreshold: 1
  livenessProbe:
    httpGet: {path: /healthz, port: metrics}
    periodSeconds: 10
  resources:
    {{- toYaml .Values.agent.resources | nindent 4 }}
  volumeMounts:
    - {name: config, mountPath: /etc/lucid/config, readOnly: true}
    {{- if .Values.policy.configMap }}
    - {name: bundle, mountPath: /etc/lucid/bundle, readOnly: true}
    {{- end }}
    {{- if .Values.identity.keysSecret.name }}
    - {name: keys, mountPath: /etc/lucid/secrets/identity, readOnly: true}
    {{- end }}
    {{- if .Values.tls.secret }}
    - {name: gateway-tls, mountPath: /etc/lucid/secrets/gateway-tls, readOnly: true}
    {{- end }}
    {{- if .Values.tls.authoritySecret.name }}
    - {name: gateway-authority, mountPath: /etc/lucid/secrets/gateway-authority, readOnly: true}
    {{- end }}
    {{- if .Values.observer.caSecret.name }}
    - {name: observer-ca, mountPath: /etc/lucid/secrets/observer-ca, readOnly: true}
    {{- end }}
    {{- if .Values.observer.certificateSecret }}
    - {name: observer-certificate, mountPath: /etc/lucid/secrets/observer-certificate, readOnly: true}
    {{- end }}
    - {name: run, mountPath: /run/lucid}
    {{- if ne .Values.tee.mode "simulated" }}
    - {name: quote, mountPath: /run/lucid-quote}
    {{- end }}
    - {name: state, mountPath: /var/lib/lucid}
{{- end }}

{{- define "lucid.volumes" -}}
- name: config
  configMap: {name: {{ include "lucid.name" . }}}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: state
  {{- toYaml (.Values.agent.state | default (dict "emptyDir" (dict "sizeLimit" "2Gi"))) | nindent 2 }}
{{- if ne .Values.tee.mode "simulated" }}
- name: quote  # the helper's alone to write: root without capabilities writes only what is root's
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: configfs
  hostPath: {path: {{ .Values.tee.helper.configfs }}, type: Directory}
{{- end }}
{{- with .Values.policy }}
{{- if .configMap }}
- name: bundle
  configMap:
    name: {{ .configMap }}
    items:
      {{- toYaml .items | nindent 6 }}
{{- end }}
{{- end }}
{{- with .Values.identity.keysSecret }}
{{- if .name }}
- name: keys
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: keys}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.tls.secret }}
- name: gateway-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.authoritySecret }}
{{- if .name }}
- name: gateway-authority
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.observer.caSecret }}
{{- if .name }}
- name: observer-ca
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.observer.certificateSecret }}
- name: observer-certificate
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* The rest of a pod's spec that every pod here shares. */}}
{{- define "lucid.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "lucid.name" . }}
enableServiceLinks: false
terminationGracePeriodSeconds: 45
securityContext:
  fsGroup: 65532
  # Files of a claim's volume stay their owner's alone when a pod comes back to it: the agent refuses
  # a state folder that a group may write. Its own, state, is below the folder that Kubernetes looks at.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lucid.podMetadata" -}}
labels:
  {{- include "lucid.labels" . | nindent 2 }}
  app.kubernetes.io/component: agent
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
