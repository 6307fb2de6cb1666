# SPDX-License-Identifier: Apache-2.0
"""What nf_tables says of other people's commits, cut, spliced and forged: what is ours is seen, or all is looked at."""

from __future__ import annotations

import struct

from fuzz.harness import Target
from fuzz.mutation import mutated_bytes
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, nested, text, u32
from pointsman_enforcer.dataplane.nftables.mend import (
    Repair,
    TableState,
    is_structure_suspect,
    restructure,
    sections_to_compare,
)
from pointsman_enforcer.dataplane.nftables.message import Batch, Family
from pointsman_enforcer.dataplane.nftables.notifications import Notifications, Touched
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings

_NAME = b"pointsman\0"
_OURS = text(1, "pointsman")
_ELEMENTS = nested(3, nested(1, attribute(1, bytes(8)), attribute(2, b"\0\0\0\7")))
_SETS = tuple(spec.name for spec in layout.ALL_SETS)
_KINDS = {
    uapi.NFT_MSG_NEWSETELEM: ("element", 2),
    uapi.NFT_MSG_DELSETELEM: ("element", 2),
    uapi.NFT_MSG_NEWSET: ("set", 2),
    uapi.NFT_MSG_DELSET: ("set", 2),
    uapi.NFT_MSG_NEWRULE: ("rule", 2),
    uapi.NFT_MSG_DELRULE: ("rule", 2),
    uapi.NFT_MSG_NEWCHAIN: ("chain", 3),
    uapi.NFT_MSG_DELCHAIN: ("chain", 3),
    uapi.NFT_MSG_NEWTABLE: ("table", 0),
    uapi.NFT_MSG_DELTABLE: ("table", 0),
}
"""Kind of object, and the attribute that names it within its table."""
_UNKNOWN_KINDS = (18, 20, 23, 31, 99, 255)


def _message(kind: int, family: int, *attributes: bytes, subsystem: int = uapi.NFNL_SUBSYS_NFTABLES) -> bytes:
    payload = struct.pack(">BBH", family, 0, 7) + b"".join(attributes)
    return struct.pack("=IHHII", len(payload) + 16, subsystem << 8 | kind, 0, 1, 4711) + payload


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from((*_KINDS, *_UNKNOWN_KINDS)))
    family = draw(st.sampled_from((*map(int, Family), 1, 0, 7, 255)))
    table = draw(st.sampled_from((_OURS, _OURS, text(1, "others"), text(1, "pointsman2"), b"")))
    name = draw(st.sampled_from((*_SETS, "services", "cluster-2", "x" * 255)))
    at = _KINDS.get(kind, ("other", 2))[1] or 2
    named = draw(st.sampled_from((text(at, name), attribute(at, b"\xff\xfe\0"), attribute(at, b""), b"")))
    subsystem = draw(st.sampled_from((uapi.NFNL_SUBSYS_NFTABLES, uapi.NFNL_SUBSYS_NFTABLES, 1, 255)))
    return _message(kind, family, table, named, draw(st.sampled_from((b"", _ELEMENTS))), subsystem=subsystem)


_generation = _message(uapi.NFT_MSG_NEWGEN, 0, u32(1, 9), u32(2, 77), text(3, "firewalld"))
_datagrams = st.lists(_messages(), min_size=1, max_size=4).map(b"".join)
_lengths = st.tuples(_datagrams, st.sampled_from((0, 1, 15, 16, 19, 20, 0x7FFFFFFF, 0xFFFFFFFF))).map(
    lambda both: struct.pack("=I", both[1]) + both[0][4:]
)
_hostile = st.one_of(_datagrams, mutated_bytes(_datagrams), _lengths, st.just(_generation), st.binary(max_size=64))


def _read_strictly(datagram: bytes) -> list[tuple[str, Family, bytes]] | None:
    """Our objects in a datagram: kind, table, name; None when it is not whole. Written apart from what it checks."""
    found = []
    while datagram:
        if len(datagram) < 20:
            return None
        length, kind = struct.unpack_from("=IH", datagram)
        if not 16 <= length <= len(datagram):
            return None
        body, datagram = datagram[16:length], datagram[(length + 3) // 4 * 4 :]
        if (
            kind >> 8 != uapi.NFNL_SUBSYS_NFTABLES
            or kind & 0xFF == uapi.NFT_MSG_NEWGEN
            or body[:1] not in (b"\2", b"\n")
        ):
            continue
        attributes = {}
        rest = body[4:]
        while len(rest) >= 4:
            size, number = struct.unpack_from("=HH", rest)
            if not 4 <= size <= len(rest):
                return None
            attributes[number & 0x3FFF] = rest[4:size]
            rest = rest[(size + 3) // 4 * 4 :]
        if attributes.get(1) != _NAME:
            continue
        what, at = _KINDS.get(kind & 0xFF, ("other", 0))
        if at and at not in attributes:
            return None
        found.append((what, Family(body[0]), attributes.get(at, b"").split(b"\0")[0]))
    return found


def _is_seen(touched: Touched, what: str, family: Family, name: bytes) -> bool:
    if what in ("table", "other"):
        return what in touched.kinds and family in touched.structure
    names = touched.sets if what in ("element", "set") else touched.chains
    return what in touched.kinds and (family, name.decode("latin-1")) in names


def check(datagrams: list[bytes]) -> None:
    """Nothing raises; what is ours in a whole datagram is known; one that is not whole means that all is looked at."""
    notifications = Notifications()
    for datagram in datagrams:
        notifications.read(datagram)
    touched = notifications.take()
    read = [(_read_strictly(datagram), datagram) for datagram in datagrams]
    assert touched.is_lost or not any(found is None and _NAME in datagram for found, datagram in read)
    for found, _ in read:
        assert touched.is_lost or all(_is_seen(touched, *each) for each in found or ())
    assert touched.is_any or not any(found for found, _ in read)
    for family in Family:
        _mend(touched, family)
    notifications.read(_message(uapi.NFT_MSG_DELSETELEM, Family.IPV6, _OURS, text(2, "endpoints")))
    assert (Family.IPV6, "endpoints") in notifications.take().sets, "what came before does no harm to what comes after"


def _mend(touched: Touched, family: Family) -> None:
    """The decisions that follow, with whatever names the kernel may have beside ours."""
    assert sections_to_compare(touched, family) or not touched.is_lost
    if is_structure_suspect(touched, family):
        chains = tuple(sorted(name for each, name in touched.chains if each is family))
        sets = tuple(sorted(name for each, name in touched.sets if each is family))
        settings = SkeletonSettings()
        state = TableState(
            family=family, settings=settings, endpoint_chains=frozenset(), chain_names=chains, set_names=sets
        )
        repair = Repair()
        restructure(repair, touched, state)
        Batch(repair.messages).encode(1)


TARGETS = (
    Target(
        name="enforcer: notifications of the kernel",
        values=st.lists(_hostile, min_size=1, max_size=5),
        check=check,
        examples=200,
    ),
)
