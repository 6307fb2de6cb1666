# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: made under a random name, joined by veth pairs, removed at the end.

Nothing here changes the namespace of the test process itself. Work inside a namespace is done either by a process
started there (`run`) or by a short-lived thread that enters it (`call`): a socket belongs for its whole life to the
namespace it was opened in, so what such a thread opens can be used from any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Result = TypeVar("Result")

_CLONE_NEWNET = 0x40000000
_COMMAND_TIMEOUT_SECONDS = 60


class NetNs:
    """A named network namespace with its loopback up; a context manager that removes it, and all in it, on exit."""

    def __init__(self, label: str = "ns") -> None:
        """`label` only helps the reader of `ip netns list`; the name gets a random part."""
        self.name = f"pmt-{label[:12]}-{secrets.token_hex(4)}"
        self.path = Path("/run/netns") / self.name

    def __enter__(self) -> Self:
        _command("ip", "netns", "add", self.name)
        try:
            self.run("ip", "link", "set", "lo", "up")
            self.sysctl("net.ipv6.conf.default.accept_dad", 0)
            self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the namespace; its links go with it as soon as the last socket in it is closed."""
        _command("ip", "netns", "delete", self.name)

    def run(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a command inside and return its standard output; with `check`, a failure raises with its stderr."""
        return _command("ip", "netns", "exec", self.name, *argv, stdin=stdin, check=check)

    def popen(self, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a process inside; the caller ends it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *argv], **options)  # type: ignore[call-overload,no-any-return]  # options are handed through

    def call(self, function: Callable[[], Result]) -> Result:
        """Run `function` in a thread that is inside, wait for it, and return its result or raise its exception."""
        future: Future[Result] = Future()

        def enter_and_run() -> None:
            try:
                _enter(self.path)
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                future.set_exception(error)

        thread = threading.Thread(target=enter_and_run, name=f"in-{self.name}")
        thread.start()
        thread.join()
        return future.result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that lives in this namespace and can be used from anywhere."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, key: str, value: object) -> None:
        """Set one sysctl of this namespace, by its dotted name."""
        self.run("sysctl", "-qw", f"{key}={value}")

    def forwarding(self) -> None:
        """Make this namespace a router for both families."""
        self.sysctl("net.ipv4.ip_forward", 1)
        self.sysctl("net.ipv6.conf.all.forwarding", 1)

    def address(self, device: str, *addresses: str) -> None:
        """Give `device` addresses with prefix lengths, usable at once."""
        for address in addresses:
            extra = ("nodad",) if ":" in address else ()
            self.run("ip", "address", "add", address, "dev", device, *extra)

    def route(self, destination: str, *via: str) -> None:
        """Add a route, e.g. `route("default", "via", "10.0.0.1")`."""
        family = "-6" if ":" in destination or any(":" in part for part in via) else "-4"
        self.run("ip", family, "route", "add", destination, *via)

    def ruleset(self) -> str:
        """What stock `nft list ruleset` prints inside."""
        return self.run("nft", "list", "ruleset")


def veth(left: NetNs, left_name: str, right: NetNs, right_name: str) -> None:
    """Join two namespaces by a veth pair whose ends are up and without checksum or segmentation offload surprises."""
    _command(
        "ip", "link", "add", "name", left_name, "netns", left.name,
        "type", "veth", "peer", "name", right_name, "netns", right.name,
    )  # fmt: skip
    for namespace, device in ((left, left_name), (right, right_name)):
        namespace.run("ip", "link", "set", device, "up")


def _enter(path: Path) -> None:
    """Move the calling thread, and only it, into the network namespace at `path` (`os.setns` came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.closing(_Fd(path)) as handle:
        if libc.setns(handle.number, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))


class _Fd:
    """A file descriptor that closes."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.number)


def _command(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=_COMMAND_TIMEOUT_SECONDS
    )
    if check and done.returncode != 0:
        raise subprocess.SubprocessError(f"{' '.join(argv)!r} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
