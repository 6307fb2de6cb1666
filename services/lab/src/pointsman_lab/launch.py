# SPDX-License-Identifier: Apache-2.0
"""Starts a lab from the host: state directory, API socket, boot process, and the wait until it is up."""

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pointsman_lab.errors import LabStartError, LabUsageError
from pointsman_lab.net.process import wait_process
from pointsman_lab.settings import LabSettings, encode_settings
from pointsman_lab.statedir import LabFile, StateDirectory

_BOOT = Path(__file__).with_name("boot.py")
_STOP_SECONDS = 20.0
_LOG_TAIL_CHARACTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A lab that is up. Closing `lifeline` ends it; None for one that outlives its starter."""

    guard: subprocess.Popen[bytes]
    lifeline: int | None
    state: StateDirectory


async def launch(
    settings: LabSettings, *, detached: bool = False, on_step: Callable[[str], None] = lambda _: None
) -> Launched:
    """Starts a lab and waits until it is up.

    Raises:
        LabUsageError: not root, a bad setting, or a lab of that name runs.
        LabStartError: a part did not come up; nothing is left behind.
    """
    if os.geteuid() != 0:
        raise LabUsageError("the lab makes network namespaces and needs root: run it with sudo")
    topology = settings.topology
    state = StateDirectory(settings.root_path, settings.name)
    lock = state.create()
    state.settings.write_bytes(encode_settings(settings))
    listener = socket.create_server(("127.0.0.1", settings.api_port))
    lifeline_read, lifeline_write = os.pipe()
    try:
        guard = _start_guard(state, lock, lifeline_read, listener.fileno(), detached=detached)
        port = listener.getsockname()[1]
    finally:
        listener.close()
        os.close(lock)
        os.close(lifeline_read)
    launched = Launched(guard=guard, lifeline=None if detached else lifeline_write, state=state)
    if detached:
        os.close(lifeline_write)
    try:
        await _wait_until_up(guard, on_step, state)
    except BaseException:
        await end(launched)
        raise
    state.write(
        LabFile(
            name=settings.name,
            guard_pid=guard.pid,
            init_pid=_only_child(guard.pid),
            kubeconfig=str(state.kubeconfig),
            server=f"https://127.0.0.1:{port}",
            nodes=[node.name for node in topology.nodes],
        )
    )
    return launched


async def end(launched: Launched) -> None:
    """Ends a lab and waits until nothing of it is left."""
    if launched.lifeline is not None:
        os.close(launched.lifeline)
    elif launched.guard.poll() is None:
        launched.guard.terminate()
    await asyncio.wait_for(wait_process(launched.guard), _STOP_SECONDS)
    if launched.guard.stdout is not None:
        launched.guard.stdout.close()


def end_by_pid(guard_pid: int) -> None:
    """Ends a lab that another process started, and waits until nothing of it is left.

    Raises:
        LabStartError: it does not end.
    """
    try:
        descriptor = os.pidfd_open(guard_pid)
    except ProcessLookupError:
        return
    try:
        os.kill(guard_pid, 15)
        if not select.select([descriptor], [], [], _STOP_SECONDS)[0]:
            raise LabStartError(f"the lab's guard, process {guard_pid}, does not end; kill it with kill -9 {guard_pid}")
    finally:
        os.close(descriptor)


def _start_guard(
    state: StateDirectory, lock: int, lifeline: int, api_socket: int, *, detached: bool
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-S", "-E", "-I", str(_BOOT)]
    argv += ["-1" if detached else str(lifeline), str(lock), str(state.path), "--"]
    argv += [sys.executable, "-m", "pointsman_lab.control.main", str(state.path), str(api_socket)]
    descriptors = (lock, api_socket) if detached else (lock, lifeline, api_socket)
    with (state.logs / "control.stderr").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=descriptors,
            # A session of its own: Ctrl-C is for the owner, who then ends the lab in order.
            start_new_session=True,
        )


async def _wait_until_up(guard: subprocess.Popen[bytes], on_step: Callable[[str], None], state: StateDirectory) -> None:
    if guard.stdout is None:
        raise RuntimeError("the guard was started without a pipe")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.dup(guard.stdout.fileno()), "rb")
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while line := await reader.readline():
            message = msgspec.json.decode(line)
            if "step" in message:
                on_step(message["step"])
            elif "ready" in message:
                return
            else:
                raise LabStartError(message["error"])
    finally:
        transport.close()
    log = _read(state.logs / "control.stderr") + _read(state.logs / "control.log")
    raise LabStartError(f"the lab's control process ended at start:\n{log[-_LOG_TAIL_CHARACTERS:]}")


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _only_child(pid: int) -> int:
    """The one child of the guard: PID 1 of the lab."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0])
