# SPDX-License-Identifier: Apache-2.0
"""What each expression of a rule does, as the kernel evaluates it.

One function for each, by the kernel's name for it, with the numbers of its attributes. An expression, an attribute or a
value of one that is not known here is an error, never a guess.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from conformance.executors.rendered.packet import Situation, UnknownRuleError

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import parse
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_model.affinity import jhash
from support.fake_nftables import Expression

_NETWORK, _TRANSPORT = 1, 2
_DPORT = (2, 2)
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_FIB_ADDRESS_TYPE = 3
_CT_STATUS, _STATUS_DNAT = 2, 1 << 5
_META_PRIORITY, _META_MARK, _META_IIFNAME, _META_PROTOCOL = 2, 3, 6, 16
_RANDOM, _JENKINS, _DNAT, _ICMP_UNREACHABLE = 1, 0, 1, 0
_PORT_UNREACHABLE = {4: 3, 16: 4}
_INTERFACE_BYTES = 16


class Then(Enum):
    """What comes after an expression."""

    NEXT = "the next expression"
    MISS = "the next rule"
    LEAVE = "the end of this chain"
    END = "the end of this hook"


class To(NamedTuple):
    """Another chain comes next; after `goto`, this one is over."""

    chain: str
    is_goto: bool


Attributes = Mapping[int, bytes]


def evaluate(one: Expression, at: Situation) -> Then | To:
    """Do what an expression says.

    Raises:
        UnknownRuleError: it says something that is not known here.
    """
    if one.name not in _EXPRESSIONS:
        raise UnknownRuleError(f"an expression `{one.name}` is not known here")
    function, attributes = _EXPRESSIONS[one.name]
    if not attributes >= one.attributes.keys():
        unknown = sorted(one.attributes.keys() - attributes)
        raise UnknownRuleError(f"attributes {unknown} of an expression `{one.name}` are not known here")
    return function(at, one.attributes)


def _payload(at: Situation, a: Attributes) -> Then:
    base, offset, length = (_number(a[key]) for key in (2, 3, 4))
    size = len(at.packet.source)
    start = 12 if size == 4 else 8
    if base == _NETWORK and (offset, length) == (start, size):
        at.registers.put(a[1], at.packet.source)
    elif base == _NETWORK and (offset, length) == (start + size, size):
        at.registers.put(a[1], at.packet.destination)
    elif base == _TRANSPORT and (offset, length) == _DPORT:
        at.registers.put(a[1], at.packet.port.to_bytes(2, "big"))
    else:
        raise UnknownRuleError(f"no bytes are known at header {base}, offset {offset}, length {length}")
    return Then.NEXT


def _meta(at: Situation, a: Attributes) -> Then:
    key = _number(a[2])
    if 3 in a:
        stored = int.from_bytes(at.registers.get(a[3], 4), sys.byteorder)
        if key == _META_MARK:
            at.packet = replace(at.packet, mark=stored)
        elif key == _META_PRIORITY:
            at.packet = replace(at.packet, priority=stored)
        else:
            raise UnknownRuleError(f"meta {key} cannot be set here")
        return Then.NEXT
    loaded = {
        _META_MARK: at.packet.mark.to_bytes(4, sys.byteorder),
        _META_PRIORITY: at.packet.priority.to_bytes(4, sys.byteorder),
        _META_PROTOCOL: bytes((at.packet.protocol,)),
        _META_IIFNAME: at.packet.interface.encode().ljust(_INTERFACE_BYTES, b"\0"),
    }
    if key not in loaded:
        raise UnknownRuleError(f"meta {key} is not known here")
    at.registers.put(a[1], loaded[key])
    return Then.NEXT


def _ct(at: Situation, a: Attributes) -> Then:
    _expect("ct key", _number(a[2]), _CT_STATUS)
    status = _STATUS_DNAT if at.packet.is_translated else 0
    at.registers.put(a[1], status.to_bytes(4, sys.byteorder))
    return Then.NEXT


def _fib(at: Situation, a: Attributes) -> Then:
    _expect("what of a route", _number(a[2]), _FIB_ADDRESS_TYPE)
    addresses = {1: at.packet.source, 2: at.packet.destination}
    if _number(a[3]) not in addresses:
        raise UnknownRuleError(f"fib with flags {_number(a[3])} is not known here")
    kind = _RTN_LOCAL if addresses[_number(a[3])] in at.local else _RTN_UNICAST
    at.registers.put(a[1], kind.to_bytes(4, sys.byteorder))
    return Then.NEXT


def _cmp(at: Situation, a: Attributes) -> Then:
    if _number(a[2]) not in (0, 1):
        raise UnknownRuleError(f"comparison {_number(a[2])} is not known here")
    value = _value(a[3])
    is_equal = at.registers.get(a[1], len(value)) == value
    return Then.NEXT if is_equal == (_number(a[2]) == 0) else Then.MISS


def _bitwise(at: Situation, a: Attributes) -> Then:
    found, mask, xor = at.registers.get(a[1], _number(a[3])), _value(a[4]), _value(a[5])
    at.registers.put(a[2], bytes(one & m ^ x for one, m, x in zip(found, mask, xor, strict=True)))
    return Then.NEXT


def _lookup(at: Situation, a: Attributes) -> Then | To:
    name = _text(a[1])
    shape = at.table.shapes[name]
    found = at.table.find(name, at.registers.get(a[2], shape.key_bytes))
    if 3 not in a:
        is_inverted = bool(_number(a.get(5, b"")))
        return Then.NEXT if (found is not None) != is_inverted else Then.MISS
    if found is None:
        return Then.MISS
    if _number(a[3]) == uapi.NFT_REG_VERDICT:
        return To(_text(found.data), is_goto=True)
    at.registers.put(a[3], found.data)
    return Then.NEXT


def _dynset(at: Situation, a: Attributes) -> Then:
    """An element that is there keeps its value when it is updated."""
    name, operation = _text(a[uapi.NFTA_DYNSET_SET_NAME]), _number(a[uapi.NFTA_DYNSET_OP])
    shape, elements = at.table.shapes[name], at.table.sets[name]
    place = at.registers.get(a[uapi.NFTA_DYNSET_SREG_KEY], shape.key_bytes), b"", False
    if operation == uapi.NFT_DYNSET_OP_DELETE:
        elements.pop(place, None)
        return Then.NEXT
    _expect("what a rule does to a set", operation, uapi.NFT_DYNSET_OP_UPDATE)
    data = at.registers.get(a[uapi.NFTA_DYNSET_SREG_DATA], 4)
    held = elements.get(place)
    if held is None and shape.size and len(elements) >= shape.size:
        return Then.MISS
    left = _number(a[uapi.NFTA_DYNSET_TIMEOUT])
    elements[place] = Element(place[0], data if held is None else held.data, expiration_ms=left)
    return Then.NEXT


def _numgen(at: Situation, a: Attributes) -> Then:
    _expect("numgen", _number(a[3]), _RANDOM)
    drawn = at.dice.draw(_number(a[2])) + _number(a.get(4, b""))
    at.registers.put(a[1], drawn.to_bytes(4, sys.byteorder))
    return Then.NEXT


def _hash(at: Situation, a: Attributes) -> Then:
    """The kernel scales 32 bits to the modulus by multiplication."""
    _expect("hash", _number(a[7]), _JENKINS)
    number = jhash(at.registers.get(a[1], _number(a[3])), _number(a[5]))
    scaled = (number * _number(a[4]) >> 32) + _number(a[6])
    at.registers.put(a[2], scaled.to_bytes(4, sys.byteorder))
    return Then.NEXT


def _immediate(at: Situation, a: Attributes) -> Then | To:
    if _number(a[1]) != uapi.NFT_REG_VERDICT:
        at.registers.put(a[1], _value(a[2]))
        return Then.NEXT
    verdict = parse(parse(a[2])[uapi.NFTA_DATA_VERDICT])
    code = int.from_bytes(verdict[uapi.NFTA_VERDICT_CODE], "big", signed=True)
    if code in (uapi.NFT_JUMP, uapi.NFT_GOTO):
        return To(_text(verdict[uapi.NFTA_VERDICT_CHAIN]), is_goto=code == uapi.NFT_GOTO)
    if code == uapi.NFT_RETURN:
        return Then.LEAVE
    if code == uapi.NF_DROP:
        at.packet = replace(at.packet, refusal="DROP")
    elif code != uapi.NF_ACCEPT:
        raise UnknownRuleError(f"verdict {code} is not known here")
    return Then.END


def _nat(at: Situation, a: Attributes) -> Then:
    """Connection tracking calls a packet translated when that changed something."""
    _expect("nat", _number(a[1]), _DNAT)
    where = at.registers.get(a[3], len(at.packet.destination)), _number(at.registers.get(a[5], 2))
    is_other = where != (at.packet.destination, at.packet.port)
    at.packet = replace(at.packet, destination=where[0], port=where[1], is_translated=is_other)
    return Then.END


def _masq(at: Situation, _: Attributes) -> Then:
    _expect("masquerade at hook", at.hook, uapi.NF_INET_POST_ROUTING)
    at.packet = replace(at.packet, is_masqueraded=True)
    return Then.END


def _reject(at: Situation, a: Attributes) -> Then:
    _expect("reject with", _number(a[1]), _ICMP_UNREACHABLE)
    code = _number(a[2])
    is_port = code == _PORT_UNREACHABLE[len(at.packet.source)]
    at.packet = replace(at.packet, refusal="REJECT" if is_port else f"ICMP unreachable, code {code}")
    return Then.END


def _counter(_: Situation, __: Attributes) -> Then:
    return Then.NEXT


_EXPRESSIONS: Mapping[str, tuple[Callable[[Situation, Attributes], Then | To], frozenset[int]]] = {
    "payload": (_payload, frozenset({1, 2, 3, 4})),
    "meta": (_meta, frozenset({1, 2, 3})),
    "ct": (_ct, frozenset({1, 2})),
    "fib": (_fib, frozenset({1, 2, 3})),
    "cmp": (_cmp, frozenset({1, 2, 3})),
    "bitwise": (_bitwise, frozenset({1, 2, 3, 4, 5})),
    "lookup": (_lookup, frozenset({1, 2, 3, 5})),
    "dynset": (_dynset, frozenset({1, 3, 4, 5, 6})),
    "numgen": (_numgen, frozenset({1, 2, 3, 4})),
    "hash": (_hash, frozenset({1, 2, 3, 4, 5, 6, 7})),
    "immediate": (_immediate, frozenset({1, 2})),
    "nat": (_nat, frozenset({1, 2, 3, 5})),
    "masq": (_masq, frozenset({1})),
    "reject": (_reject, frozenset({1, 2})),
    "counter": (_counter, frozenset({1, 2})),
}


def _expect(what: str, found: int, known: int) -> None:
    if found != known:
        raise UnknownRuleError(f"{what} {found} is not known here, only {known} is")


def _value(encoded: bytes) -> bytes:
    return parse(encoded)[uapi.NFTA_DATA_VALUE]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
