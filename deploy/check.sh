#!/bin/sh
# Checks what is in this folder, as far as that can be done without Docker and without a cluster.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$bin/hadolint" --failure-threshold style deploy/Dockerfile deploy/model.Dockerfile
"$bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/compose.cuda.yaml
# What would be applied, against the oldest Kubernetes that it is written for and the newest whose schemas there are.
for folder in base cuda tls; do
    "$bin/kubectl" kustomize "deploy/kubernetes/$folder" >"$work/$folder.yaml"
    "$bin/kubernetes-validate" --strict --quiet -k 1.30 -k 1.37 "$work/$folder.yaml"
done
