# SPDX-License-Identifier: Apache-2.0
"""Sets the clock of one Python process: `time.time` and `time.time_ns` are off by what a file says, at any moment.

The kernel can give namespaces their own monotonic clock and no other, so the clock that people set, and that jumps, is
stepped here. Python imports this by itself when its directory is in PYTHONPATH. Nothing happens without the variable.
`datetime.now` and C code go on with the machine's clock.
"""

import mmap
import os
import struct
import time

_OFFSET = struct.Struct("<q")


def _install(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - the interpreter is starting; pathlib is not worth its import
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + int(_OFFSET.unpack_from(offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if _path := os.environ.get("POINTSMAN_LAB_CLOCK"):
    _install(_path)
