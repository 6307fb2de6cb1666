# SPDX-License-Identifier: Apache-2.0
"""The Redis of the lab: Debian's server, without the service that its package would start. Keeps nothing on disk."""

import shutil
import sys
from pathlib import Path

from pointsman_lab.errors import LabStartError
from pointsman_lab.pki import Identity


def find_redis() -> str:
    """The path of a Redis server: one on the PATH, else the one that `make setup` put beside this interpreter.

    Raises:
        LabStartError: there is neither.
    """
    for program in ("redis-server", str(Path(sys.executable).with_name("redis-server"))):
        if found := shutil.which(program):
            return found
    raise LabStartError("no Redis server found: run `make setup`, or install the package redis-server")


def redis_argv(program: str, *, address: str, port: int, directory: Path, identity: Identity) -> tuple[str, ...]:
    """The command line: one address, mutual TLS only, no persistence.

    No protected mode, since the lab is closed to the world.
    """
    options = {
        "--bind": address,
        "--port": "0",
        "--tls-port": str(port),
        "--tls-cert-file": str(identity.certificate),
        "--tls-key-file": str(identity.key),
        "--tls-ca-cert-file": str(identity.ca),
        "--tls-auth-clients": "yes",
        "--save": "",
        "--appendonly": "no",
        "--protected-mode": "no",
        "--daemonize": "no",
        "--dir": str(directory),
        "--maxmemory": "256mb",
        "--loglevel": "notice",
    }
    return (program, *(part for option in options.items() for part in option))
