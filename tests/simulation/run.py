# SPDX-License-Identifier: Apache-2.0
"""Simulation: `.venv/bin/python tests/simulation/run.py --seed 1 --count 1000`.

Only the door: it makes `simulation` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("simulation.command").main())
