# SPDX-License-Identifier: Apache-2.0
"""Where a running lab is found: one directory per lab, held by a lock, removed at its end.

<root>/<name>/lock         locked by the guard as long as the lab lives
             /lab.json     what the command line needs (see LabFile)
             /kubeconfig   for the host; kubeconfig.internal for processes inside
             /control.sock /prober.sock
             /logs/NAME.log  /config/NAME.yaml  /nodes/NODE/
"""

import fcntl
import os
import re
import shutil
from pathlib import Path

import msgspec

from pointsman_lab.errors import LabUsageError

DEFAULT_ROOT = Path("/run/pointsman-lab")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class LabFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of lab.json. `init_pid` is, seen from the host, PID 1 of the lab; `guard_pid` ends it."""

    name: str
    guard_pid: int
    init_pid: int
    kubeconfig: str
    server: str
    nodes: list[str]


class StateDirectory:
    """The paths of one lab."""

    def __init__(self, root: Path, name: str) -> None:
        """Names the directory; nothing is created.

        Raises:
            LabUsageError: the name is not usable as a directory and host name.
        """
        if not _NAME.fullmatch(name):
            raise LabUsageError(f"lab name {name!r}: use lower-case letters, digits and hyphens, at most 32")
        self.name = name
        self.path = root / name
        self.lab_file = self.path / "lab.json"
        self.kubeconfig = self.path / "kubeconfig"
        self.internal_kubeconfig = self.path / "kubeconfig.internal"
        self.pki = self.path / "pki"
        self.control_socket = self.path / "control.sock"
        self.prober_socket = self.path / "prober.sock"
        self.settings = self.path / "settings.json"
        self.logs = self.path / "logs"
        self.config = self.path / "config"
        self.nodes = self.path / "nodes"
        self.ctl_config = self.config / "pointsmanctl.yaml"
        self._lock = self.path / "lock"

    def clock(self, process: str) -> Path:
        """The file that says by how many nanoseconds a process's clock is off, as eight bytes."""
        return self.config / f"{process}.clock"

    def create(self) -> int:
        """Creates the directory and locks it; answers with the lock's descriptor, to be handed to the guard.

        Raises:
            LabUsageError: a lab of that name is running.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise LabUsageError(
                f"a lab called {self.name!r} is running; end it with `pointsman-lab down` or choose another --name"
            ) from error
        for entry in self.path.iterdir():
            # What a lab left behind whose guard was killed.
            if entry.name != self._lock.name:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for directory in (self.logs, self.config, self.nodes, self.pki):
            directory.mkdir()
        return lock

    def is_running(self) -> bool:
        """Whether somebody holds the lock."""
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def read(self) -> LabFile:
        """What is written about the running lab.

        Raises:
            LabUsageError: no lab of that name is running.
        """
        if not self.is_running() or not self.lab_file.exists():
            raise LabUsageError(f"no lab called {self.name!r} is running; start one with `pointsman-lab up`")
        return msgspec.json.decode(self.lab_file.read_bytes(), type=LabFile)

    def write(self, lab: LabFile) -> None:
        """Writes lab.json, at once or not at all."""
        partial = self.lab_file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(lab))
        partial.replace(self.lab_file)


def running_labs(root: Path) -> list[str]:
    """The names of the labs that run."""
    if not root.is_dir():
        return []
    return sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and StateDirectory(root, entry.name).is_running()
    )
