# SPDX-License-Identifier: Apache-2.0
"""Runs one command in a User-Mode-Linux guest and gives back what it wrote and how it ended.

The guest is a real kernel (Debian's package `user-mode-linux`, 6.1) in a few ordinary processes. It boots in two
seconds over the host's file system, which it cannot write: /run is in its own memory, and one directory,
/run/guest, is shared with the caller. It has one processor, its own network and no way out of it. Nothing
of it is left when the command has ended, the time is over or the caller was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pointsman_lab.errors import LabError

_KERNEL: Final = "linux.uml"
_HERE: Final = Path(__file__).parent
_BOOT_ARGUMENTS: Final = ("rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:1", "quiet", "loglevel=1")
_NOT_STARTED: Final = 125
_END: Final = "guest command ended\n"
"""What init.sh writes last; the kernel's farewell follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestResult:
    """How a command in a guest ended."""

    status: int
    """Its exit status; 125 when a module could not be loaded."""
    output: str
    """Standard output and standard error."""


def is_available() -> bool:
    """Whether a guest can be started here."""
    return shutil.which(_KERNEL) is not None and shutil.which("gcc") is not None


def run_in_guest(
    command: Sequence[str],
    *,
    shared: Path,
    modules: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    memory_mib: int = 2048,
    timeout_seconds: float = 300.0,
    written: Callable[[str], None] | None = None,
) -> GuestResult:
    """Run a command in a new guest.

    Args:
        command: What to run; the guest sees the host's files.
        shared: Directory for files in both directions; the guest has it at /run/guest.
        modules: Kernel modules to load first.
        environment: Added to a minimal environment.
        directory: Working directory; the caller's when absent.
        memory_mib: Memory of the guest.
        timeout_seconds: Longest life of the guest.
        written: Called with each line as it comes.

    Raises:
        LabError: there is no guest kernel, it did not boot, or the time was over.
    """
    if not is_available():
        raise LabError("a guest needs User-Mode-Linux and gcc: apt-get install user-mode-linux gcc")
    shared.mkdir(parents=True, exist_ok=True)
    status_file = shared / "status"
    status_file.unlink(missing_ok=True)
    (shared / "modules").write_text("\n".join(modules) + "\n")
    (shared / "command").write_text(_script(command, environment or {}, directory or Path.cwd()))
    with tempfile.TemporaryDirectory(prefix="pointsman-guest-") as scratch:
        output = _boot(Path(scratch), shared.resolve(), memory_mib, timeout_seconds, written)
    if not status_file.exists():
        raise LabError(f"the guest did not end its command; it said:\n{output[-4000:]}")
    status = int(status_file.read_text())
    if status == _NOT_STARTED:
        raise LabError(
            f"the guest could not start the command: it lacks a module or has no shared directory:\n{output}"
        )
    return GuestResult(status=status, output=output)


def _script(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> str:
    values = {"HOME": "/run", "TMPDIR": "/run/tmp", "LANG": "C.UTF-8", **environment}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    return f"{exports}cd {shlex.quote(str(directory))} || exit 1\nexec {shlex.join(command)} </dev/null 2>&1\n"


def _boot(
    scratch: Path, shared: Path, memory_mib: int, timeout_seconds: float, written: Callable[[str], None] | None
) -> str:
    arguments = [
        _KERNEL,
        f"mem={memory_mib}M",
        *_BOOT_ARGUMENTS,
        f"uml_dir={scratch}",
        f"init={_HERE / 'init.sh'}",
        f"pointsman_shared={shared}",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(scratch), "LD_PRELOAD": str(_state_library(scratch))}
    kernel = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    lines: list[str] = []
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        _kill(kernel)

    timer = threading.Timer(timeout_seconds, end)
    timer.start()
    try:
        for line in kernel.stdout or ():
            if line == _END:
                break
            lines.append(line)
            if written is not None:
                written(line.rstrip("\n"))
        kernel.wait()
    finally:
        timer.cancel()
        _kill(kernel)
    if is_late.is_set():
        raise LabError(f"the guest was ended after {timeout_seconds:.0f} s; it said:\n{''.join(lines)[-4000:]}")
    return "".join(lines)


def _kill(kernel: subprocess.Popen[str]) -> None:
    """End the guest's kernel and the processes that stand for the guest's processes: a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(kernel.pid, signal.SIGKILL)
    kernel.wait()


def _state_library(scratch: Path) -> Path:
    """The library of `xstate.c`, made here: it takes 0.1 s, and a stored one could be of another machine."""
    library = scratch / "xstate.so"
    result = subprocess.run(
        ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_HERE / "xstate.c")],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise LabError(f"xstate.c does not compile here: {result.stderr.strip()}")
    return library
