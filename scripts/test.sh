#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests, or with arguments just `pytest ARGUMENTS`. Most tests wait for sockets, kernels and leases far
# longer than they compute, so files run side by side; the marker `alone` names those that need the machine to themselves.
set -uo pipefail
cd "$(dirname "$0")/.."
pytest=.venv/bin/pytest
if (($#)); then exec "$pytest" "$@"; fi
workers=$(($(nproc) + 1))
"$pytest" tests -m "not alone" --numprocesses "$((workers < 8 ? workers : 8))" --dist loadfile
side_by_side=$?
"$pytest" tests -m alone
alone=$?
exit $((side_by_side || alone))
