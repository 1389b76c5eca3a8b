{{/* Standard labels. Call with (dict "root" $ "component" "launcher"). */}}
{{- define "vita-training.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: vita-train
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Metadata of an object. Call with (dict "root" $ "component" "launcher" "name" "vita-launcher"). */}}
{{- define "vita-training.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "vita-training.labels" . | nindent 2 }}
{{- end }}

{{/* Name of a service account. Call with (dict "root" $ "component" "launcher"). */}}
{{- define "vita-training.account" -}}
{{- (index .root.Values.serviceAccounts .component).name | default (printf "%s-%s" .root.Values.prefix .component) }}
{{- end }}

{{- define "vita-training.runtime" -}}
{{ .Values.prefix }}-torchrun
{{- end }}

{{- define "vita-training.configMap" -}}
{{ .Values.prefix }}-platform
{{- end }}

{{- define "vita-training.s3Secret" -}}
{{ .Values.s3.existingSecret | default (printf "%s-s3" .Values.prefix) }}
{{- end }}

{{/* "true" where the TrainingRuntime is to be installed, else empty. */}}
{{- define "vita-training.hasRuntime" -}}
{{- $served := .Capabilities.APIVersions.Has "trainer.kubeflow.org/v1alpha1/TrainingRuntime" -}}
{{- if or (eq (toString .Values.trainJob.enabled) "true") (and (eq (toString .Values.trainJob.enabled) "auto") $served) -}}
true
{{- end }}
{{- end }}

{{/* What the launcher reads: the values, with what the rest of the chart decides filled in. */}}
{{- define "vita-training.platform" -}}
{{- $platform := deepCopy .Values.platform -}}
{{- $_ := set $platform "namespace" .Release.Namespace -}}
{{- $_ := set $platform "image" .Values.images.trainer -}}
{{- with .Values.s3.stores -}}
{{- $_ := set $platform "store" (first .) -}}
{{- end -}}
{{- $_ := set $platform "runtime" (include "vita-training.runtime" .) -}}
{{- $pod := $platform.pod -}}
{{- if not $pod.service_account -}}
{{- $_ := set $pod "service_account" (include "vita-training.account" (dict "root" . "component" "trainer")) -}}
{{- end -}}
{{- if not $pod.cache -}}
{{- $_ := unset $pod "cache" -}}
{{- end -}}
{{- /* What pod.env and pod.secret_env state themselves goes before what s3 implies. */ -}}
{{- $s3 := .Values.s3 -}}
{{- range $name, $value := dict "AWS_ENDPOINT_URL_S3" $s3.endpoint "AWS_DEFAULT_REGION" $s3.region -}}
{{- if and $value (not (hasKey $pod.env $name)) -}}
{{- $_ := set $pod.env $name $value -}}
{{- end -}}
{{- end -}}
{{- $keys := dict -}}
{{- if $s3.existingSecret -}}
{{- $keys = $s3.existingKeys -}}
{{- else if $s3.accessKeyId -}}
{{- $keys = dict "AWS_ACCESS_KEY_ID" "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SECRET_ACCESS_KEY" -}}
{{- end -}}
{{- range $name, $key := $keys -}}
{{- if not (or (hasKey $pod.env $name) (hasKey $pod.secret_env $name)) -}}
{{- $_ := set $pod.secret_env $name (dict "secret" (include "vita-training.s3Secret" $) "key" $key) -}}
{{- end -}}
{{- end -}}
{{- toYaml $platform -}}
{{- end }}

{{/* Of the pods of our own that the restricted level of Pod Security admits. */}}
{{- define "vita-training.restricted" -}}
{{- with .Values.platform.pod.image_pull_secrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{ end -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.platform.pod.run_as }}
  fsGroup: {{ .Values.platform.pod.run_as }}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Of each of their containers. */}}
{{- define "vita-training.small" -}}
imagePullPolicy: {{ .Values.platform.image_pull_policy }}
env:
  - {name: HOME, value: /tmp}
  {{- /* The object store's, as the training pods get them. */}}
  {{- $pod := (include "vita-training.platform" . | fromYaml).pod }}
  {{- range $name, $value := $pod.env }}
  {{- if hasPrefix "AWS_" $name }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- end }}
  {{- range $name, $source := $pod.secret_env }}
  {{- if hasPrefix "AWS_" $name }}
  - {name: {{ $name }}, valueFrom: {secretKeyRef: {name: {{ $source.secret }}, key: {{ $source.key }}}}}
  {{- end }}
  {{- end }}
resources:
  requests: {cpu: 50m, memory: 128Mi}
  limits: {memory: 512Mi}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: platform, mountPath: /etc/vita-train, readOnly: true}
  - {name: scratch, mountPath: /tmp}
  - {name: pipelines-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
{{- end }}

{{- define "vita-training.volumes" -}}
- name: platform
  configMap: {name: {{ include "vita-training.configMap" . }}}
- name: scratch
  emptyDir: {sizeLimit: 64Mi}
# What Kubeflow Pipelines knows a pod by.
- name: pipelines-token
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 7200, audience: pipelines.kubeflow.org}
{{- end }}
