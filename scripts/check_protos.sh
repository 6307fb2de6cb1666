#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails when the committed stubs are not what the .proto files generate. Run through `make proto-check`.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh" "$fresh.log"' EXIT
scripts/gen_protos.sh "$fresh" >"$fresh.log" 2>&1 || { cat "$fresh.log" >&2; exit 1; }
if ! diff -r --exclude=__pycache__ proto/gen "$fresh"; then
  echo "proto/gen is stale: run \`make proto\` and commit the result" >&2
  exit 1
fi
