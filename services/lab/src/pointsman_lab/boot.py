# SPDX-License-Identifier: Apache-2.0
"""Starts a lab's control process in fresh PID, mount and network namespaces, and ends it with its owner.

Run as a script with `-S -E -I`, standard library only, so that it costs milliseconds and two megabytes:

    boot.py LIFELINE_FD LOCK_FD STATE_DIRECTORY -- COMMAND...

    guard (host)      holds the lab's lock; when the owner dies (LIFELINE_FD ends) it kills init, then removes the
      |               state directory. -1 as LIFELINE_FD: nobody's death ends the lab.
    init (PID 1)      reaps orphans; dies with the guard. With PID 1 the kernel kills every process of the namespace,
      |               and with the last process go mounts, network namespaces and links.
    command           the control process; when it ends, init ends.

So no exit path, kill -9 included, leaves anything running, and there is no cleanup code to get wrong.
"""

import ctypes
import os
import select
import signal
import sys

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_PR_SET_PDEATHSIG = 1


def _call(libc: ctypes.CDLL, name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        sys.exit(f"pointsman-lab: {name} failed: {os.strerror(number)}; the lab needs root (CAP_SYS_ADMIN)")


def main() -> None:
    """Becomes the guard, forks init."""
    lifeline, lock, state_directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    command = sys.argv[sys.argv.index("--") + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc, "unshare", _CLONE_NEWPID)
    # The guard waits here until init has asked to die with it; before that, init could be left behind.
    ready_read, ready_write = os.pipe()
    init = os.fork()
    if init == 0:
        _call(libc, "prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.write(ready_write, b".")
        for descriptor in (ready_read, ready_write, lock, lifeline):
            if descriptor >= 0:
                os.close(descriptor)
        _run_init(libc, command)
    os.read(ready_read, 1)
    status = _guard(init, lifeline)
    _remove(state_directory)
    sys.exit(status)


def _guard(init: int, lifeline: int) -> int:
    pidfd = os.pidfd_open(init)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if lifeline >= 0:
        # The owner never writes: readable means closed.
        poll.register(lifeline, select.POLLIN | select.POLLHUP)
    terminated = _signal_pipe()
    poll.register(terminated, select.POLLIN)
    if pidfd not in {descriptor for descriptor, _ in poll.poll()}:
        os.kill(init, signal.SIGKILL)
    # This returns when every process of the namespace is gone, not only init.
    _, status = os.waitpid(init, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 0


def _signal_pipe() -> int:
    """A descriptor that becomes readable when somebody asks the guard to end."""
    read, write = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(write, b"."))
    return read


def _remove(directory: str) -> None:
    import shutil  # noqa: PLC0415  # only now, it would double the start-up time

    shutil.rmtree(directory, ignore_errors=True)


def _run_init(libc: ctypes.CDLL, command: list[str]) -> None:
    _call(libc, "unshare", _CLONE_NEWNS | _CLONE_NEWNET)
    _call(libc, "mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
    _call(libc, "mount", b"proc", b"/proc", b"proc", _MS_NOSUID_NODEV_NOEXEC, None)
    # The host's own name for this directory stays; inside, it is ours alone.
    os.makedirs("/run/netns", exist_ok=True)  # noqa: PTH103  # pathlib would double the start-up time
    _call(libc, "mount", b"tmpfs", b"/run/netns", b"tmpfs", _MS_NOSUID_NODEV_NOEXEC, b"mode=0755")
    child = os.fork()
    if child == 0:
        os.execv(command[0], command)  # noqa: S606  # our own command line, no shell wanted
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
