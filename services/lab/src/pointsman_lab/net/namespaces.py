# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by name: create, enter, remove, and their sysctls.

A thread belongs to one network namespace, and what it creates (a socket, a child process) stays there. So nothing
needs a helper process per namespace: enter, create, leave, in about a microsecond. The names live in `/run/netns`,
which inside the lab is a private tmpfs, so `ip netns exec NAME` works in the lab and the host sees none of it.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pointsman_lab.errors import NetworkError

NAMESPACE_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise NetworkError(f"{name}{arguments!r}: {os.strerror(number)}")


def namespace_path(name: str) -> Path:
    """The file that names a namespace, as `ip netns` does it."""
    return NAMESPACE_DIRECTORY / name


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Runs the body, which must not await, in the named network namespace.

    Raises:
        NetworkError: there is no such namespace.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            target = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NetworkError(f"there is no network namespace {name!r}") from error
        try:
            _call("setns", target, _CLONE_NEWNET)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def create_namespace(name: str) -> None:
    """Creates an empty network namespace called `name`."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            name_current_namespace(name)
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def name_current_namespace(name: str) -> None:
    """Gives the namespace this thread is in a name."""
    path = namespace_path(name)
    path.touch(exist_ok=False)
    _call("mount", b"/proc/thread-self/ns/net", os.fsencode(path), None, _MS_BIND, None)


def remove_namespace(name: str) -> None:
    """Drops the name; the namespace ends with the last process or socket in it. Unknown names are fine."""
    path = namespace_path(name)
    if path.exists():
        _call("umount2", os.fsencode(path), _MNT_DETACH)
        path.unlink(missing_ok=True)


def namespace_names() -> tuple[str, ...]:
    """All named namespaces, sorted."""
    return tuple(sorted(entry.name for entry in NAMESPACE_DIRECTORY.iterdir()))


def write_sysctls(values: Mapping[str, str]) -> None:
    """Writes sysctls (path below /proc/sys -> value) of the current namespace; one the kernel lacks is left out."""
    for key, value in values.items():
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys", key).write_text(value, encoding="ascii")
