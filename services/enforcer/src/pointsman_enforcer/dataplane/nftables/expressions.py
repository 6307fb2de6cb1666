# SPDX-License-Identifier: Apache-2.0
"""The expressions rules are made of, under the names of the nft manual. Each returns its encoded bytes.

A register is a number 0..15: sixteen registers of four bytes; longer values take several in a row.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, nested, text, u32, u64

NETWORK_HEADER: Final = 1
TRANSPORT_HEADER: Final = 2
INTERFACE_NAME_BYTES: Final = 16
RTN_LOCAL: Final = 2
IPS_DST_NAT: Final = 1 << 5
RANDOM_FULLY: Final = 0x10
ICMP_PORT_UNREACHABLE: Final = 3
ICMPV6_PORT_UNREACHABLE: Final = 4


class Meta(IntEnum):
    """`meta` keys."""

    PRIORITY = 2
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    L4PROTO = 16


class Ct(IntEnum):
    """`ct` keys."""

    STATE = 0
    STATUS = 2


class Fib(IntEnum):
    """Which address `fib ... type` asks about."""

    SADDR = 1
    DADDR = 2


def payload(register: int, base: int, offset: int, length: int) -> bytes:
    """Load `length` bytes of a header."""
    return _expression("payload", _reg(1, register), u32(2, base), u32(3, offset), u32(4, length))


def meta(register: int, key: Meta) -> bytes:
    """`meta KEY`: load a property of the packet."""
    return _expression("meta", u32(2, key), _reg(1, register))


def meta_set(key: Meta, register: int) -> bytes:
    """`meta KEY set`: store a register into a property of the packet."""
    return _expression("meta", u32(2, key), _reg(3, register))


def ct(register: int, key: Ct) -> bytes:
    """`ct KEY`: load a property of the connection."""
    return _expression("ct", u32(2, key), _reg(1, register))


def fib_type(register: int, address: Fib) -> bytes:
    """`fib saddr|daddr type`: load the kind of route that address has (RTN_LOCAL: it is this host's)."""
    return _expression("fib", u32(3, address), u32(2, 3), _reg(1, register))


def cmp(register: int, value: bytes, *, equal: bool = True) -> bytes:
    """Leave the rule unless the register equals (or does not equal) `value`."""
    return _expression("cmp", _reg(1, register), u32(2, 0 if equal else 1), _value(3, value))


def value_range(register: int, first: bytes, last: bytes, *, inside: bool = True) -> bytes:
    """Leave the rule unless the register lies in (or outside) `first`..`last`, both included."""
    operation = u32(2, 0 if inside else 1)
    return _expression("range", _reg(1, register), operation, _value(3, first), _value(4, last))


def bitwise(register: int, mask: bytes, xor: bytes) -> bytes:
    """Change a register to (register & mask) ^ xor."""
    return _expression(
        "bitwise", _reg(1, register), _reg(2, register), u32(3, len(mask)), _value(4, mask), _value(5, xor)
    )


def lookup(register: int, name: str, *, inverted: bool = False) -> bytes:
    """`@name` / `!= @name`: leave the rule unless the key is in the set (or is not)."""
    flags = (u32(5, 1),) if inverted else ()
    return _expression("lookup", _reg(2, register), text(1, name), *flags)


def lookup_value(register: int, name: str, into: int) -> bytes:
    """`map @name`: load the value the map has for the key; leave the rule when it has none."""
    return _expression("lookup", _reg(2, register), _reg(3, into), text(1, name))


def lookup_verdict(register: int, name: str) -> bytes:
    """`vmap @name`: do what the map says for the key; leave the rule when it has nothing."""
    return _expression("lookup", _reg(2, register), u32(3, uapi.NFT_REG_VERDICT), text(1, name))


def update_element(register: int, data: int, name: str, timeout_ms: int) -> bytes:
    """`update @map { KEY timeout T : DATA }`: add the element if it is not there, and let its time begin anew.

    The value of one that is there stays. Leave the rule when the map is full.
    """
    return _expression(
        "dynset",
        text(uapi.NFTA_DYNSET_SET_NAME, name),
        u32(uapi.NFTA_DYNSET_OP, uapi.NFT_DYNSET_OP_UPDATE),
        _reg(uapi.NFTA_DYNSET_SREG_KEY, register),
        _reg(uapi.NFTA_DYNSET_SREG_DATA, data),
        u64(uapi.NFTA_DYNSET_TIMEOUT, timeout_ms),
    )


def delete_element(register: int, data: int, name: str) -> bytes:
    """`delete @map { KEY : DATA }`: of a map, too, the key alone counts; one that is not there is no matter."""
    return _expression(
        "dynset",
        text(uapi.NFTA_DYNSET_SET_NAME, name),
        u32(uapi.NFTA_DYNSET_OP, uapi.NFT_DYNSET_OP_DELETE),
        _reg(uapi.NFTA_DYNSET_SREG_KEY, register),
        _reg(uapi.NFTA_DYNSET_SREG_DATA, data),
    )


def numgen_random(register: int, modulus: int, offset: int = 0) -> bytes:
    """`numgen random mod M offset O`: a random number O..O+M-1, host-endian."""
    return _expression("numgen", _reg(1, register), u32(2, modulus), u32(3, 1), u32(4, offset))


def jhash(register: int, length: int, *, modulus: int, seed: int, into: int, offset: int = 0) -> bytes:
    """`jhash ... mod M seed S offset O`: Jenkins' hash of `length` bytes as a number O..O+M-1, host-endian."""
    numbers = (u32(3, length), u32(4, modulus), u32(5, seed), u32(6, offset), u32(7, 0))
    return _expression("hash", _reg(1, register), _reg(2, into), *numbers)


def verdict(code: int, chain: str | None = None) -> bytes:
    """`jump chain`, `goto chain`, `drop`, `accept`, `return`."""
    return _expression("immediate", u32(1, uapi.NFT_REG_VERDICT), nested(2, verdict_data(code, chain)))


def verdict_data(code: int, chain: str | None = None) -> bytes:
    """A verdict as the value of a verdict map or of an immediate."""
    name = (text(uapi.NFTA_VERDICT_CHAIN, chain),) if chain is not None else ()
    return nested(uapi.NFTA_DATA_VERDICT, u32(uapi.NFTA_VERDICT_CODE, code), *name)


def immediate(register: int, value: bytes) -> bytes:
    """Load a constant."""
    return _expression("immediate", _reg(1, register), _value(2, value))


def dnat(family: int, address: int, port: int) -> bytes:
    """`dnat to`: the address and port in these registers."""
    return _expression("nat", u32(1, 1), u32(2, family), _reg(3, address), _reg(5, port))


def masquerade() -> bytes:
    """`masquerade fully-random`."""
    return _expression("masq", u32(1, RANDOM_FULLY))


def reject(icmp_code: int) -> bytes:
    """`reject`: answer with an ICMP unreachable of this code."""
    return _expression("reject", u32(1, 0), attribute(2, bytes((icmp_code,))))


def counter() -> bytes:
    """`counter`, from zero."""
    return _expression("counter", u64(1, 0), u64(2, 0))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(uapi.NFTA_LIST_ELEM, text(uapi.NFTA_EXPR_NAME, name), nested(uapi.NFTA_EXPR_DATA, *attributes))


def _reg(kind: int, register: int) -> bytes:
    return u32(kind, uapi.NFT_REG32_00 + register)


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(uapi.NFTA_DATA_VALUE, value))
