# SPDX-License-Identifier: Apache-2.0
"""Changes of mode under traffic: `.venv/bin/python tests/mode_switch/run.py nftables:iptables-nft`.

Only the door: it makes `mode_switch` importable, whatever the working directory; `command.py` is the program.
"""

import importlib
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # The namespaces go with the process that made them only if it ends in order.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("mode_switch.command").main())
