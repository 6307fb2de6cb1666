# SPDX-License-Identifier: Apache-2.0
"""A packet's way through rules as iptables-save prints them, and through the sets that they ask.

Where a rule draws by lot, both ways are followed, each with its share. A word that is not known here is an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from conformance.executors.rendered.packet import Packet, UnknownRuleError

from pointsman_enforcer.dataplane.xtables.text import WORDS
from pointsman_model.names import Family, Protocol, format_address, parse_address
from support.fake_xtables import FakeSet, FakeXtables

_JUMPS_MAX = 16
_ODDS_MAX = 1 << 12
"""Printed odds are rounded to 2^-31; those that were meant have smaller denominators in this suite."""


class Lots:
    """Answers already drawn, and the odds of all that were asked for; what is drawn beyond them is yes."""

    def __init__(self, given: Sequence[bool]) -> None:
        self.answers = list(given)
        self.odds: list[Fraction] = []

    def draw(self, odds: Fraction) -> bool:
        """Whether it is a hit."""
        self.odds.append(odds)
        if len(self.odds) > len(self.answers):
            self.answers.append(True)
        return self.answers[len(self.odds) - 1]

    @property
    def share(self) -> Fraction:
        """Of packets that get exactly these answers."""
        found = Fraction(1)
        for answer, odds in zip(self.answers, self.odds, strict=True):
            found *= odds if answer else 1 - odds
        return found


@dataclass
class Way:
    """Where a packet is, and what it may meet."""

    host: FakeXtables
    family: Family
    packet: Packet
    lots: Lots
    local: frozenset[bytes]
    is_over: bool = field(default=False)


def ways(
    host: FakeXtables, family: Family, packet: Packet, *, local: frozenset[bytes]
) -> Iterator[tuple[Packet, Fraction]]:
    """What becomes of a packet, with the share of packets that it happens to."""
    given: list[bool] = []
    while True:
        lots = Lots(given)
        end = _through_hooks(Way(host, family, packet, lots, local))
        yield end, lots.share
        given = lots.answers
        while given and not given[-1]:
            given.pop()
        if not given:
            return
        given[-1] = False


def one_way(
    host: FakeXtables, family: Family, packet: Packet, *, local: frozenset[bytes], draw: Callable[[Fraction], bool]
) -> Packet:
    """What becomes of one packet that draws so."""

    class Drawing(Lots):
        def draw(self, odds: Fraction) -> bool:
            return draw(odds)

    return _through_hooks(Way(host, family, packet, Drawing(()), local))


def _through_hooks(way: Way) -> Packet:
    is_incoming = bool(way.packet.interface)
    before = (("mangle", "PREROUTING"), ("nat", "PREROUTING")) if is_incoming else (("nat", "OUTPUT"),)
    for table, hook in before:
        _hook(way, table, hook)
    is_delivered = is_incoming and way.packet.destination in way.local
    if not way.packet.refusal:
        _hook(way, "filter", ("INPUT" if is_delivered else "FORWARD") if is_incoming else "OUTPUT")
    if way.packet.refusal or is_delivered:
        return way.packet
    _hook(way, "nat", "POSTROUTING")
    return replace(way.packet, has_left=True)


def _hook(way: Way, table: str, hook: str) -> None:
    way.is_over = bool(way.packet.refusal)
    if not way.is_over:
        _chain(way, table, hook, 0)


def _chain(way: Way, table: str, chain: str, depth: int) -> None:
    if depth > _JUMPS_MAX:
        raise UnknownRuleError(f"more than {_JUMPS_MAX} jumps deep in chain {chain}")
    chains = way.host.tables[way.family][table]
    for text in chains[chain]:
        rule = parsed(text)
        if not all(_matches(way, each) for each in rule.matches):
            continue
        if rule.target in chains:
            _chain(way, table, rule.target, depth + 1)
            if way.is_over or rule.is_goto:
                return
        elif rule.target == "RETURN":
            return
        elif rule.target:
            _TARGETS[rule.target](way, table, rule.options)
            if way.is_over:
                return


class Match(NamedTuple):
    """One question of a rule."""

    name: str
    value: str
    is_negated: bool
    more: str = ""


class Rule(NamedTuple):
    """A rule, taken apart."""

    matches: tuple[Match, ...]
    target: str
    is_goto: bool
    options: tuple[str, ...]


_SELF_SAID = frozenset({"tcp", "udp", "sctp", "set", "addrtype", "mark", "conntrack", "statistic"})
"""Modules whose options follow: loading one asks nothing."""


@cache
def parsed(text: str) -> Rule:
    """A rule; UnknownRuleError for a word that is not known."""
    words, matches, is_negated = iter(text.split()), list[Match](), False
    for word in words:
        if word == "!":
            is_negated = True
            continue
        if word in ("-j", "-g"):
            return Rule(tuple(matches), next(words), word == "-g", tuple(words))
        value = next(words)
        if word == "-m":
            if value not in _SELF_SAID:
                raise UnknownRuleError(f"{text}: module {value} is not known here")
            continue
        if word == "--mode" and value == "random":
            continue
        if word not in _QUESTIONS:
            raise UnknownRuleError(f"{text}: {word} is not known here")
        matches.append(Match(word, value, is_negated, next(words) if word == "--match-set" else ""))
        is_negated = False
    return Rule(tuple(matches), "", False, ())


def _matches(way: Way, match: Match) -> bool:
    return _QUESTIONS[match.name](way, match) != match.is_negated


@cache
def _masked(text: str) -> tuple[int, int]:
    """An address or mark with its mask, prefix length or none, as numbers."""
    value, _, mask = text.partition("/")
    if value.startswith("0x"):
        return int(value, 16), int(mask, 16) if mask else 0xFFFFFFFF
    address = ipaddress.ip_address(value)
    if not mask:
        return int(address), (1 << address.max_prefixlen) - 1
    if mask.isdigit():
        bits = int(mask)
        return int(address), ((1 << bits) - 1) << (address.max_prefixlen - bits)
    return int(address), int(ipaddress.ip_address(mask))


def _is_in(address: bytes, text: str) -> bool:
    value, mask = _masked(text)
    return int.from_bytes(address) & mask == value & mask


def _is_marked(way: Way, match: Match) -> bool:
    value, mask = _masked(match.value)
    return way.packet.mark & mask == value


def _is_port(way: Way, match: Match) -> bool:
    first, _, last = match.value.partition(":")
    return int(first) <= way.packet.port <= int(last or first)


def _is_interface(way: Way, match: Match) -> bool:
    name = way.packet.interface or "lo"
    return name.startswith(match.value[:-1]) if match.value.endswith("+") else name == match.value


def _type_of(way: Way, match: Match) -> bool:
    if match.value != "LOCAL":
        raise UnknownRuleError(f"address type {match.value} is not known here")
    address = way.packet.destination if match.name == "--dst-type" else way.packet.source
    return address in way.local or (len(address) == 4 and address[0] == 127) or address == bytes(15) + b"\1"


def _state(way: Way, match: Match) -> bool:
    """The packet begins a connection: it is new, and translated once it was."""
    states = {"NEW", "DNAT"} if way.packet.is_translated else {"NEW"}
    return bool(states & set(match.value.split(",")))


def _is_drawn(way: Way, match: Match) -> bool:
    return way.lots.draw(Fraction(match.value).limit_denominator(_ODDS_MAX))


def _is_member(way: Way, match: Match) -> bool:
    return bool(_member(way, way.host.sets[match.value], match.more))


def _member(way: Way, found: FakeSet, directions: str) -> str:
    """The element that a packet is in, empty for none."""
    packet, sides = way.packet, directions.split(",")
    word = f"{WORDS[Protocol(packet.protocol)]}:{packet.port}"
    parts = [
        word if kind == "port" else format_address(packet.destination if side == "dst" else packet.source)
        for kind, side in zip(found.kind.partition(":")[2].split(","), sides, strict=True)
    ]
    if found.kind == "bitmap:port":
        return str(packet.port) if str(packet.port) in found.elements else ""
    if not found.kind.endswith("net"):
        element = ",".join(parts)
        return element if element in found.elements else ""
    address = parse_address(parts[-1])
    for element in found.elements:
        *first, network = element.split(",")
        is_comparable = first == parts[:-1] and (":" in network) == (len(address) > 4)
        if is_comparable and _is_in(address, network):
            return element
    return ""


def _dnat(way: Way, table: str, options: Sequence[str]) -> None:
    place = options[options.index("--to-destination") + 1]
    address, _, port = place.rpartition(":")
    destination = parse_address(address.strip("[]"))
    way.packet = replace(way.packet, destination=destination, port=int(port), is_translated=True)
    _end(way, table, ())


def _masquerade(way: Way, table: str, options: Sequence[str]) -> None:
    del options
    way.packet = replace(way.packet, is_masqueraded=True)
    _end(way, table, ())


def _mark(way: Way, table: str, options: Sequence[str]) -> None:
    del table
    value, mask = _masked(options[options.index("--set-xmark") + 1])
    way.packet = replace(way.packet, mark=(way.packet.mark & ~mask & 0xFFFFFFFF) ^ value)


def _set(way: Way, table: str, options: Sequence[str]) -> None:
    del table
    verb, name, side = options[:3]
    found, address = way.host.sets[name], way.packet.source
    if side != "src" or verb not in ("--add-set", "--del-set"):
        raise UnknownRuleError(f"{' '.join(options)} is not known here")
    if verb == "--add-set":
        found.elements[format_address(address)] = int(options[options.index("--timeout") + 1])
    else:
        found.elements.pop(format_address(address), None)


def _end(way: Way, table: str, options: Sequence[str]) -> None:
    del table, options
    way.is_over = True


def _drop(way: Way, table: str, options: Sequence[str]) -> None:
    way.packet = replace(way.packet, refusal="DROP")
    _end(way, table, options)


def _reject(way: Way, table: str, options: Sequence[str]) -> None:
    if table == "nat" or not options[-1].endswith("-port-unreachable"):
        raise UnknownRuleError(f"{table}: REJECT {' '.join(options)} is not known here")
    way.packet = replace(way.packet, refusal="REJECT")
    _end(way, table, options)


_QUESTIONS: dict[str, Callable[[Way, Match], bool]] = {
    "-s": lambda way, match: _is_in(way.packet.source, match.value),
    "-d": lambda way, match: _is_in(way.packet.destination, match.value),
    "-p": lambda way, match: WORDS[Protocol(way.packet.protocol)] == match.value,
    "-i": _is_interface,
    "--dport": _is_port,
    "--mark": _is_marked,
    "--ctstate": _state,
    "--dst-type": _type_of,
    "--src-type": _type_of,
    "--probability": _is_drawn,
    "--match-set": _is_member,
}
_TARGETS: dict[str, Callable[[Way, str, Sequence[str]], None]] = {
    "ACCEPT": _end,
    "DROP": _drop,
    "REJECT": _reject,
    "DNAT": _dnat,
    "MASQUERADE": _masquerade,
    "MARK": _mark,
    "SET": _set,
}
