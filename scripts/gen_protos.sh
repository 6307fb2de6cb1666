#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Regenerates the committed stubs under proto/gen from proto/pointsman. Run through `make proto`.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto/gen}
bin="$PWD/.venv/bin"
mkdir -p "$out/pointsman"
find "$out/pointsman" -name '*_pb2*' -delete
mapfile -t files < <(cd proto && find pointsman -name '*.proto' | LC_ALL=C sort)
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I proto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  "${files[@]}"
# A package without services needs no gRPC stubs.
find "$out/pointsman/types" -name '*_pb2_grpc*' -delete
touch "$out/pointsman/py.typed"
