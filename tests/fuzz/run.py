# SPDX-License-Identifier: Apache-2.0
"""Fuzz: `.venv/bin/python tests/fuzz/run.py --seconds 60`.

Only the door: it makes `fuzz` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("fuzz.command").main())
