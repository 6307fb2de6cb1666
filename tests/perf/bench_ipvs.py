# SPDX-License-Identifier: Apache-2.0
"""Figures of ipvs mode, in a guest: `PYTHONPATH=tests .venv/bin/python tests/perf/bench_ipvs.py 1000 10000`.

Cold start, one endpoint of one service, one look for drift, and memory. Ratios matter: a guest has one processor, and
its system calls are slow.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from conformance.executors.modes import IPVS

from pointsman_lab.guest.machine import run_in_guest

_PROGRAM = Path(__file__).parents[1] / "support" / "ipvs_backend_guest.py"


def main() -> None:
    """One guest for each number of services."""
    for services in map(int, sys.argv[1:] or ("1000",)):
        with tempfile.TemporaryDirectory() as shared:
            command = [sys.executable, str(_PROGRAM), str(services)]
            result = run_in_guest(command, shared=Path(shared), modules=IPVS.guest_modules, timeout_seconds=600)
        seen = json.loads(result.output.splitlines()[-1])
        words = ("cold_start_ms", "one_change_ms", "look_ms", "mib", "servers", "reals")
        sys.stdout.write(f"{services} services x 10: {' '.join(f'{word}={seen[word]}' for word in words)}" + "\n")


if __name__ == "__main__":
    main()
