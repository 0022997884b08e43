{{/* The Observer's container. It accepts a simulated TEE only where the agent has one; then both are in
one pod, because the simulated root is a file of that agent. */}}
{{- define "lucid.observer" -}}
{{- with .Values.observer }}
- name: observer
  image: {{ include "lucid.image" $ }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args:
    - lucid-observer
    - run
    - --listen-grpc=0.0.0.0:50051
    - --listen-http=0.0.0.0:8090
    - --database=sqlite+aiosqlite:////var/lib/lucid/observer.sqlite
    {{- if eq $.Values.tee.mode "simulated" }}
    - --allow-simulated
    - --simulated-root=/var/lib/lucid-agent/state/simulated-tee/root.pem
    {{- end }}
    {{- range .allowedHosts }}
    - --allowed-host={{ . }}
    {{- end }}
    {{- range .proxies }}
    - --proxy={{ . }}
    {{- end }}
    {{- if .tlsSecret }}
    - --grpc-certificate=/etc/lucid/secrets/tls/tls.crt
    - --grpc-key=/etc/lucid/secrets/tls/tls.key
    {{- end }}
  ports:
    - {name: grpc, containerPort: 50051}
    - {name: http, containerPort: 8090}
  securityContext:
    {{- include "lucid.restricted" $ | nindent 4 }}
  startupProbe:
    tcpSocket: {port: grpc}
    periodSeconds: 2
    failureThreshold: 30
  readinessProbe:
    tcpSocket: {port: grpc}
  livenessProbe:
    tcpSocket: {port: grpc}
  resources:
    {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - {name: observer-state, mountPath: /var/lib/lucid}
    {{- if eq $.Values.tee.mode "simulated" }}
    - {name: state, mountPath: /var/lib/lucid-agent, readOnly: true}
    {{- end }}
    - {name: observer-tmp, mountPath: /tmp}
    {{- if .tlsSecret }}
    - {name: observer-tls, mountPath: /etc/lucid/secrets/tls, readOnly: true}
    {{- end }}
{{- end }}
{{- end }}

{{- define "lucid.observerVolumes" -}}
{{- with .Values.observer }}
- name: observer-state
  {{- toYaml (.storage | default (dict "emptyDir" (dict "sizeLimit" "10Gi"))) | nindent 2 }}
- name: observer-tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if .tlsSecret }}
- name: observer-tls
  secret: {secretName: {{ .tlsSecret }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end }}
