#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes an authority and the two certificates that deploy/base needs, and prints the objects for `kubectl apply -f -`.
# For trying things out: it keeps the authority's key in DIRECTORY, and renews nothing. Usage: certificates.sh DIRECTORY
set -euo pipefail
directory=${1:?usage: certificates.sh DIRECTORY}
namespace=pointsman-system
mkdir -p "$directory"
cd "$directory"
umask 077

if [[ ! -f ca.key ]]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -keyout ca.key -out ca.crt -subj /CN=pointsman 2>/dev/null
fi
for name in pointsman-watcher pointsman-planner; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$name.key" -out "$name.csr" -subj "/CN=$name" 2>/dev/null
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -out "$name.crt" \
    -extfile <(printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$name") 2>/dev/null
  kubectl create secret generic "$name-tls" -n "$namespace" --dry-run=client -o yaml \
    --from-file=tls.crt="$name.crt" --from-file=tls.key="$name.key" --from-file=ca.crt
  echo ---
done
kubectl create configmap pointsman-ca -n "$namespace" --dry-run=client -o yaml --from-file=ca.crt
