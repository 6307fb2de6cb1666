# SPDX-License-Identifier: Apache-2.0
"""How long connecting takes and how much goes through, from inside a node's namespace to a server of its own there.

    python -m pointsman_lab.bench.path_probe JSON

JSON is {"listen": PORT, "targets": {NAME: [ADDRESS, PORT]}, "connects": N, "bytes": N, "timeout_seconds": S}. Every
target leads to the server at port `listen` here, directly or through a service. Writes {NAME: {"connect_us": [each],
"gigabits": G}}. Targets are asked in turn, connection by connection, so that whatever else the machine does falls
on all of them alike. Independent of all code under measurement: standard library only.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any, Final

_CHUNK: Final = b"\0" * (1 << 18)
_PAUSE_SECONDS: Final = 0.02


def main() -> int:
    """Measure and print; 1 when a target cannot be reached in time."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    targets = {name: (str(address), int(port)) for name, (address, port) in spec["targets"].items()}
    deadline = time.monotonic() + spec["timeout_seconds"]
    with socket.create_server(("0.0.0.0", spec["listen"]), backlog=1024) as server:  # noqa: S104 - within a namespace
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        for name, target in targets.items():
            if not _reached(target, deadline):
                sys.stderr.write(f"{name} at {target} cannot be reached\n")
                return 1
        times: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(spec["connects"]):
            for name, target in targets.items():
                times[name].append(_connect(target))
        found = {
            name: {"connect_us": times[name], "gigabits": _throughput(target, spec["bytes"])}
            for name, target in targets.items()
        }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_drain, args=(connection,), daemon=True).start()


def _drain(connection: socket.socket) -> None:
    """Read to the end, then say so."""
    with connection:
        while connection.recv(len(_CHUNK)):
            pass
        connection.sendall(b".")


def _reached(target: tuple[str, int], deadline: float) -> bool:
    while time.monotonic() < deadline:
        try:
            socket.create_connection(target, timeout=1).close()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False


def _connect(target: tuple[str, int]) -> float:
    with socket.socket() as client:
        started = time.perf_counter()
        client.connect(target)
        return (time.perf_counter() - started) * 1e6


def _throughput(target: tuple[str, int], size: int) -> float:
    with socket.create_connection(target) as client:
        started = time.perf_counter()
        for _ in range(0, size, len(_CHUNK)):
            client.sendall(_CHUNK)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
        return size * 8 / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    sys.exit(main())
