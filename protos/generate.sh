#!/bin/sh
# Generates the code of the contract, Python's and TypeScript's. --check changes nothing, lints the contract, compares it with the last
# released one (protos/released.binpb) and fails unless the committed code is what would be generated. --release makes
# the contract as it stands the released one.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv-proto/bin"
PATH="$bin:$PWD/clients/typescript/node_modules/.bin:$PATH" # protoc finds its plugins there
google="$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" # has google/rpc/status.proto
file=mattebox/v1/background_removal.proto
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

protoc() {
    "$bin/python" -m grpc_tools.protoc -I protos -I "$google" "$@" "$file"
}

# Into a folder: the contract, and the details that its errors carry.
typescript() {
    options="env=node,esModuleInterop=true,importSuffix=.js,outputServices=grpc-js,oneof=unions-value"
    options="$options,outputJsonMethods=false,outputPartialMethods=false,exportCommonSymbols=false"
    protoc --ts_proto_out="$1" --ts_proto_opt="$options,annotateFilesWithVersion=false" google/rpc/error_details.proto google/rpc/status.proto
}

if [ "${1:-}" = --release ]; then
    protoc --include_imports -o protos/released.binpb
    exit
fi
if [ "${1:-}" != --check ]; then
    protoc --python_out=clients/python --grpc_python_out=clients/python \
        --mypy_out=quiet:clients/python --mypy_grpc_out=quiet:clients/python
    rm -rf clients/typescript/src/gen
    mkdir clients/typescript/src/gen
    typescript clients/typescript/src/gen
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
mkdir "$work/typescript"
typescript "$work/typescript"
diff -r "$work/typescript" clients/typescript/src/gen || {
    echo "the committed TypeScript is not what $file generates: run make proto" >&2
    exit 1
}
echo "contract: linted, compatible, generated code up to date"
