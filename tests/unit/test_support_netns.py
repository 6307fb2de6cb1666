# SPDX-License-Identifier: Apache-2.0
"""The namespace helper itself: isolation, sockets from inside, removal."""

from __future__ import annotations

import socket
import subprocess

import pytest

from support.netns import NetNs, veth

pytestmark = pytest.mark.root


def test_two_namespaces_talk_over_a_veth_pair_and_leave_nothing_behind() -> None:
    with NetNs("left") as left, NetNs("right") as right:
        veth(left, "l0", right, "r0")
        left.address("l0", "192.0.2.1/24", "2001:db8::1/64")
        right.address("r0", "192.0.2.2/24", "2001:db8::2/64")
        for family, address in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")):
            with right.socket(family, socket.SOCK_STREAM) as server, left.socket(family, socket.SOCK_STREAM) as client:
                server.bind((address, 8080))
                server.listen()
                client.settimeout(5)
                client.connect((address, 8080))
        names = (left.name, right.name)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in listed for name in names)


def test_a_call_runs_inside_and_its_exception_reaches_the_caller() -> None:
    with NetNs() as namespace:
        namespace.run("ip", "link", "add", "only-here", "type", "veth", "peer", "name", "peer-here")
        assert "only-here" in namespace.call(lambda: [name for _, name in socket.if_nameindex()])
        assert "only-here" not in [name for _, name in socket.if_nameindex()]
        with pytest.raises(ZeroDivisionError):
            namespace.call(lambda: 1 // 0)


def test_a_failing_command_raises_with_its_stderr() -> None:
    with NetNs() as namespace, pytest.raises(subprocess.SubprocessError, match="does not exist"):
        namespace.run("ip", "link", "show", "no-such-link")
