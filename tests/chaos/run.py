# SPDX-License-Identifier: Apache-2.0
"""Chaos: `.venv/bin/python tests/chaos/run.py --seed 1 --duration 120` (root).

Only the door: it makes `chaos` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("chaos.command").main())
