#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every member declares what it imports. The shared development environment would hide an undeclared import, and an
# image that holds one member only would then fail at its first start. Run through `make check-deps`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
modules='pointsman-proto=pointsman|pointsman_model,grpcio=grpc,grpcio-health-checking=grpc_health'
modules+=',grpcio-reflection=grpc_reflection,protobuf=google,pyyaml=yaml,prometheus-client=prometheus_client'
modules+=',opentelemetry-api=opentelemetry,opentelemetry-sdk=opentelemetry'
modules+=',opentelemetry-exporter-otlp-proto-grpc=opentelemetry,opentelemetry-proto=opentelemetry'
flags=(--no-ansi --known-first-party pointsman --package-module-name-map "$modules")
for member in proto services/*/; do
  roots=(src)
  if [[ -d $member/gen ]]; then roots+=(gen); fi
  (cd "$member" && "$root/.venv/bin/deptry" "${roots[@]}" "${flags[@]}" 2>&1) ||
    { echo "undeclared or unused dependencies in $member" >&2; exit 1; }
done
