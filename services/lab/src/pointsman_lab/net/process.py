# SPDX-License-Identifier: Apache-2.0
"""Starts a process inside a network namespace and waits for its end without a thread.

The namespace is entered by the starting thread, so the child is born in it: no wrapper command, no preexec hook.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pointsman_lab.net.namespaces import entered


def start_process(
    place: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts `argv` in the named network namespace, in a session of its own.

    Raises:
        OSError: the program cannot be started.
        NetworkError: there is no such namespace.
    """
    with entered(place):
        return subprocess.Popen(
            list(argv),
            env=None if env is None else dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            cwd=directory,
            start_new_session=True,
        )


async def wait_process(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process and answers with its return code (negative: the signal)."""
    if process.poll() is None:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return process.wait()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()
