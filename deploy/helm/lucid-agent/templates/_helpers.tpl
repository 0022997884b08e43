{{- define "lucid.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "lucid.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lucid.labels" -}}
{{ include "lucid.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lucid.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* What every container here is: no rights, no way to gain any, nothing to write to. */}}
{{- define "lucid.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Refuse what cannot work before anything is installed. */}}
{{- define "lucid.check" -}}
{{- with .Values }}
{{- if not (or .policy.configMap .policy.example) }}
{{- fail "policy: name a ConfigMap with the bundle (policy.configMap), or set policy.example=true to try it" }}
{{- end }}
{{- $workloads := and .tls.secret (ne .tls.client "none") (ne .tls.caller "credential") }}
{{- if not (or .identity.anonymous .identity.keysSecret.name $workloads) }}
{{- fail "identity: nobody could ask: set identity.keysSecret.name, tls.client, or identity.anonymous=true" }}
{{- end }}
{{- if and (ne .tls.client "none") (not (and .tls.secret .tls.trustDomain .tls.authoritySecret.name)) }}
{{- fail "tls.client: to ask for certificates needs tls.secret, tls.trustDomain and tls.authoritySecret.name" }}
{{- end }}
{{- if and (eq .tls.client "none") (or .tls.trustDomain .tls.authoritySecret.name) }}
{{- fail "tls.trustDomain: is about certificates of clients; set tls.client=required or optional" }}
{{- end }}
{{- if and (eq .mode "sidecar") (not .model.image) }}
{{- fail "model.image: mode sidecar needs the model server's image" }}
{{- end }}
{{- if and (eq .mode "daemonset") (not .upstream) }}
{{- fail "upstream: mode daemonset needs http://NAME:PORT of the model's Service" }}
{{- end }}
{{- if and .observer.deploy (eq .tee.mode "simulated") (ne .mode "sidecar") }}
{{- fail "observer.deploy: with a simulated TEE it needs mode sidecar (it reads the simulated root of its pod)" }}
{{- end }}
{{- if and .observer.target (not (hasPrefix "127.0.0.1:" .observer.target)) (not (or .observer.insecure .observer.caSecret.name)) }}
{{- fail "observer: the way to it would be plaintext: set observer.caSecret.name, or observer.insecure=true" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What checkov would find, with the reason why it is so. */}}
{{- define "lucid.skips" -}}
{{- if ne .Values.tee.mode "simulated" }}
checkov.io/skip1: CKV_K8S_23=the kernel gives quotes to root alone; the helper is root without capabilities
checkov.io/skip2: CKV_K8S_40=as above; every other container is user 65532
{{- end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.model.livenessProbe) }}
checkov.io/skip3: CKV_K8S_8=the model's probe is a value (model.livenessProbe); the agent and the helper have theirs
{{- end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.model.readinessProbe) }}
checkov.io/skip4: CKV_K8S_9=the model's probe is a value (model.readinessProbe); the agent and the helper have theirs
{{- end }}
{{- end }}
