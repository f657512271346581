#!/bin/sh
# Generates the Python code of the contract. --check changes nothing, lints the contract, compares it with the last
# released one (protos/released.binpb) and fails unless the committed code is what would be generated. --release makes
# the contract as it stands the released one.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv-proto/bin"
PATH="$bin:$PATH" # protoc finds its plugins there
google="$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" # has google/rpc/status.proto
file=mattebox/v1/background_removal.proto
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

protoc() {
    "$bin/python" -m grpc_tools.protoc -I protos -I "$google" "$@" "$file"
}

if [ "${1:-}" = --release ]; then
    protoc --include_imports -o protos/released.binpb
    exit
fi
if [ "${1:-}" != --check ]; then
    protoc --python_out=clients/python --grpc_python_out=clients/python \
        --mypy_out=quiet:clients/python --mypy_grpc_out=quiet:clients/python
    exit
fi

protoc --include_imports --include_source_info -o "$work/contract.binpb"
buf lint "$work/contract.binpb" --config buf.yaml
buf breaking "$work/contract.binpb" --against protos/released.binpb --config buf.yaml
protoc --python_out="$work" --grpc_python_out="$work" --mypy_out=quiet:"$work" --mypy_grpc_out=quiet:"$work"
for generated in "$work"/mattebox/v1/*; do
    cmp "$generated" "clients/python/mattebox/v1/$(basename "$generated")" || {
        echo "the committed code is not what $file generates: run make proto" >&2
        exit 1
    }
done
echo "contract: linted, compatible, generated code up to date"
