# SPDX-License-Identifier: Apache-2.0
"""Messages about tables, chains and rules, and the batch that carries them.

A `Message` has no sequence number yet: the batch gives it one, equal to its position, which is how an error comes back
to the message that caused it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, comment, nested, text, u32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HEADER: Final = struct.Struct("=IHHII")
_NFGEN: Final = struct.Struct(">BBH")
_NO_SEQUENCE: Final = 0


class Family(IntEnum):
    """The address family of a table, with the numbers of the kernel (NFPROTO_*)."""

    IPV4 = 2
    IPV6 = 10

    @property
    def keyword(self) -> str:
        """What nft calls it."""
        return "ip" if self is Family.IPV4 else "ip6"

    @property
    def address_bytes(self) -> int:
        """Length of an address."""
        return 4 if self is Family.IPV4 else 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, the owner of everything else. Ours are named `pointsman`; tests may use other names."""

    family: Family
    name: str = "pointsman"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One nf_tables message.

    Attributes:
        kind: NFT_MSG_*.
        flags: NLM_F_* beside NLM_F_REQUEST.
        family: the table's.
        payload: the attributes.
        what: for people, in error messages; never parsed.
    """

    kind: int
    flags: int
    family: Family
    payload: bytes
    what: str


@dataclass(slots=True)
class Batch:
    """Messages that are applied together or not at all.

    Not frozen: it is built up step by step. Everything in it is immutable.
    """

    messages: list[Message] = field(default_factory=list)

    def extend(self, messages: Iterable[Message]) -> None:
        """Append messages in order."""
        self.messages.extend(messages)

    def __len__(self) -> int:
        return len(self.messages)

    def payload_bytes(self) -> int:
        """Size on the wire, without the two frames of the batch."""
        return sum(len(message.payload) + 20 for message in self.messages)

    def encode(self, sequence: int) -> bytes:
        """The whole batch as one datagram; message i has number `sequence + 1 + i`, and the last one asks for an ACK.

        Not the end of the batch but its last message: kernels before 6.10 do not acknowledge a batch end. The
        acknowledgement of a message is delivered after the commit, so it proves it.
        """
        last = len(self.messages) - 1
        parts = [_frame(uapi.NFNL_MSG_BATCH_BEGIN, sequence)]
        for index, message in enumerate(self.messages):
            flags = message.flags | uapi.NLM_F_REQUEST | (uapi.NLM_F_ACK if index == last else 0)
            kind = uapi.NFNL_SUBSYS_NFTABLES << 8 | message.kind
            parts.append(_HEADER.pack(len(message.payload) + 20, kind, flags, sequence + 1 + index, 0))
            parts.append(_NFGEN.pack(message.family, 0, 0))
            parts.append(message.payload)
        parts.append(_frame(uapi.NFNL_MSG_BATCH_END, sequence + 1 + len(self.messages)))
        return b"".join(parts)


def request(kind: int, flags: int, family: int, payload: bytes, sequence: int) -> bytes:
    """One message outside a batch: a question."""
    header = _HEADER.pack(
        len(payload) + 20, uapi.NFNL_SUBSYS_NFTABLES << 8 | kind, flags | uapi.NLM_F_REQUEST, sequence, _NO_SEQUENCE
    )
    return header + _NFGEN.pack(family, 0, 0) + payload


def _frame(kind: int, sequence: int) -> bytes:
    return _HEADER.pack(20, kind, uapi.NLM_F_REQUEST, sequence, 0) + _NFGEN.pack(0, 0, uapi.NFNL_SUBSYS_NFTABLES)


def add_table(table: Table, words: str = "") -> Message:
    """Create the table; one that exists is left as it is, its comment included (the kernel cannot change that)."""
    data = attribute(uapi.NFTA_TABLE_USERDATA, comment(uapi.UDATA_TABLE_COMMENT, words)) if words else b""
    payload = text(uapi.NFTA_TABLE_NAME, table.name) + u32(uapi.NFTA_TABLE_FLAGS, 0) + data
    return _message(uapi.NFT_MSG_NEWTABLE, uapi.NLM_F_CREATE, table, payload, "add table")


def delete_table(table: Table) -> Message:
    """Delete the table with all in it; ENOENT when there is none."""
    return _message(uapi.NFT_MSG_DELTABLE, 0, table, text(uapi.NFTA_TABLE_NAME, table.name), "delete table")


def add_chain(table: Table, name: str, words: str = "") -> Message:
    """Create a chain that others jump to; one that exists is left as it is."""
    payload = _chain_name(table, name) + _chain_comment(words)
    return _message(uapi.NFT_MSG_NEWCHAIN, uapi.NLM_F_CREATE, table, payload, f"add chain {name}")


def add_nat_chain(table: Table, name: str, *, hook: int, priority: int, words: str = "") -> Message:
    """Create a base chain of type nat: it sees the first packet of every connection, and only that."""
    point = nested(uapi.NFTA_CHAIN_HOOK, u32(uapi.NFTA_HOOK_HOOKNUM, hook), u32(uapi.NFTA_HOOK_PRIORITY, priority))
    payload = _chain_name(table, name) + text(uapi.NFTA_CHAIN_TYPE, "nat") + point + _chain_comment(words)
    return _message(uapi.NFT_MSG_NEWCHAIN, uapi.NLM_F_CREATE, table, payload, f"add chain {name}")


def delete_chain(table: Table, name: str) -> Message:
    """Delete a chain and its rules; EBUSY while anything goes to it."""
    return _message(uapi.NFT_MSG_DELCHAIN, 0, table, _chain_name(table, name), f"delete chain {name}")


def flush_chain(table: Table, name: str) -> Message:
    """Delete all rules of a chain, which may be empty."""
    payload = text(uapi.NFTA_RULE_TABLE, table.name) + text(uapi.NFTA_RULE_CHAIN, name)
    return _message(uapi.NFT_MSG_DELRULE, 0, table, payload, f"flush chain {name}")


def add_rule(table: Table, chain: str, expressions: Sequence[bytes], words: str = "") -> Message:
    """Append a rule made of `expressions` (see expressions.py)."""
    data = attribute(uapi.NFTA_RULE_USERDATA, comment(uapi.UDATA_RULE_COMMENT, words)) if words else b""
    payload = (
        text(uapi.NFTA_RULE_TABLE, table.name)
        + text(uapi.NFTA_RULE_CHAIN, chain)
        + nested(uapi.NFTA_RULE_EXPRESSIONS, *expressions)
        + data
    )
    flags = uapi.NLM_F_CREATE | uapi.NLM_F_APPEND
    return _message(uapi.NFT_MSG_NEWRULE, flags, table, payload, f"add rule to chain {chain}")


def _chain_name(table: Table, name: str) -> bytes:
    return text(uapi.NFTA_CHAIN_TABLE, table.name) + text(uapi.NFTA_CHAIN_NAME, name)


def _chain_comment(words: str) -> bytes:
    return attribute(uapi.NFTA_CHAIN_USERDATA, comment(uapi.UDATA_CHAIN_COMMENT, words)) if words else b""


def _message(kind: int, flags: int, table: Table, payload: bytes, what: str) -> Message:
    what = f"{what}: table {table.family.keyword} {table.name}"
    return Message(kind=kind, flags=flags, family=table.family, payload=payload, what=what)
