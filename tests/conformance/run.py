# SPDX-License-Identifier: Apache-2.0
"""Run the packet-flow table and print its matrix: `.venv/bin/python tests/conformance/run.py --mode nftables`.

Only the door: it makes `conformance` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # The namespaces go with the process that made them only if it ends in order.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("conformance.command").main())
