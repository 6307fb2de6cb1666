# SPDX-License-Identifier: Apache-2.0
"""The inside of `support.container`: makes the root in its mount namespace, gives up powers, becomes the command.

Usage: python -m support.container_main SPECIFICATION
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache", "/etc/protocols")
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom")


def main(specification: Path) -> None:
    """Never returns."""
    wanted = json.loads(specification.read_text())
    root = Path(wanted["root"])
    _mount("-t", "tmpfs", "tmpfs", root)
    for path in (*SYSTEM, *wanted["environment"]):
        _share(root, Path(path))
    for path in DEVICES:
        _bind(Path(path), root / path[1:], is_read_only=False)
    for source, target, is_read_only in wanted["mounts"]:
        _bind(Path(source), root / target[1:], is_read_only=is_read_only)
    (root / "etc/hosts").write_text(wanted["hosts"])
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/false\n")
    (root / "tmp").mkdir(exist_ok=True)
    (root / "run").mkdir(exist_ok=True)
    (root / "dev/shm").mkdir()
    _mount("-t", "tmpfs", "tmpfs", root / "dev/shm")
    (root / "proc").mkdir()
    _mount("--rbind", "/proc", root / "proc")
    _bind(root / "proc/sys", root / "proc/sys", is_read_only=True)
    _mount("-o", "remount,ro", root)
    os.chroot(root)
    os.chdir("/")
    argv = ["setpriv", *wanted["privileges"], "--", *wanted["command"]]
    os.execve("/usr/bin/setpriv", argv, json.loads(os.environ["CONTAINER_ENV"]))  # noqa: S606 - no shell, as meant


def _share(root: Path, path: Path) -> None:
    """A part of the host's file system at its own place, read-only."""
    target = root / str(path)[1:]
    if path.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.readlink())
    elif path.exists():
        _bind(path, target, is_read_only=True)


def _bind(source: Path, target: Path, *, is_read_only: bool) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount("--bind", source, target)
    if is_read_only:
        _mount("-o", "remount,bind,ro", target)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["/usr/bin/mount", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
