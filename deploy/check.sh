#!/bin/sh
# Checks the files in this folder, as far as that is possible without Docker and without a cluster.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$bin/hadolint" --failure-threshold style deploy/Dockerfile deploy/model.Dockerfile
"$bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/compose.cuda.yaml
# The rendered manifests, against the oldest Kubernetes that they are written for and the newest with schemas here.
for folder in base cuda tls; do
    "$bin/kubectl" kustomize "deploy/kubernetes/$folder" >"$work/$folder.yaml"
    "$bin/kubernetes-validate" --strict --quiet -k 1.30 -k 1.37 "$work/$folder.yaml"
done
