# SPDX-License-Identifier: Apache-2.0
"""A virtual server packed and unpacked, what turns one state into another, and which sysctls a kernel gets."""

from __future__ import annotations

import pytest

from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServerId,
    ServiceFlags,
    VirtualServer,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.ipvs.node import sysctls
from pointsman_enforcer.dataplane.ipvs.state import ServerState, correction, pack_state, unpack_state
from pointsman_model.names import Family, Protocol

_PLACE = VirtualServerId(Family.IPV6, 0x80000007)
_A, _B, _C = (RealServerId(bytes(15) + bytes((last,)), 8080) for last in (1, 2, 3))
_SERVER = VirtualServer(id=_PLACE, scheduler="mh", flags=ServiceFlags.MH_PORT)
_STATE = ServerState(_SERVER, Protocol.SCTP, {_A: 1, _B: 0})


def _verbs(has: ServerState | None, wanted: ServerState | None) -> list[str]:
    return [message.what.split()[0] for message in correction(has, wanted)]


@pytest.mark.parametrize("state", [_STATE, _STATE._replace(weights={})])
def test_a_state_is_unpacked_as_it_was_packed(state: ServerState) -> None:
    assert unpack_state(_PLACE, pack_state(state)) == state


def test_only_what_differs_is_sent() -> None:
    assert _verbs(_STATE, _STATE) == []
    assert _verbs(None, None) == []
    assert _verbs(None, _STATE) == ["add", "add", "add"]
    assert _verbs(_STATE, None) == ["remove"]
    assert _verbs(_STATE, _STATE._replace(weights={_A: 2, _C: 1})) == ["change", "add", "remove"]
    other = VirtualServer(id=_PLACE, scheduler="rr")
    assert _verbs(_STATE, _STATE._replace(server=other)) == ["change"]


@pytest.mark.parametrize(
    ("release", "expire", "reuse"),
    [
        ("4.0.9", "1", None),
        ("4.18.0-553.el8", "1", "0"),
        ("5.4-rc1", "1", "0"),
        ("5.10.0", "0", None),
        ("6.1", "0", None),
    ],
)
def test_sysctls_follow_the_kernel(release: str, expire: str, reuse: str | None) -> None:
    wanted = sysctls(strict_arp=False, release=release)
    assert wanted["ipv4/vs/expire_nodest_conn"] == expire
    assert wanted.get("ipv4/vs/conn_reuse_mode") == reuse
    assert not [name for name in wanted if "arp" in name]
