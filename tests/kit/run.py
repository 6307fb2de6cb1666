# SPDX-License-Identifier: Apache-2.0
"""Check an enforcer or a controller against the contract: `.venv/bin/python tests/kit/run.py enforcer --help`.

Only the door: it makes `kit` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # What the kit has started goes with it only if it ends in order.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("kit.command").main())
