# SPDX-License-Identifier: Apache-2.0
"""The chains that do not depend on services, in the order a packet meets them, the sets they ask, and routing.

Packets that IPVS takes are routed to this host by their mark, so no address is ever added to a device, and nothing else
that is sent to a service's address reaches this host's own sockets. What IPVS sends on passes OUTPUT, where it is
marked otherwise: nat's hook there looks for a route once more, and must find the endpoint's. What it hands to an
endpoint on this host's own addresses is not sent anew, and comes to POSTROUTING as it was taken.

nat's STAY gives a taken connection the translation that changes nothing: whoever else has rules for the same Service,
as another mode has while a node changes between two, translates it no more.
"""

from __future__ import annotations

from typing import Final

from pointsman_enforcer.dataplane.ipvs.layout import (
    DROP_MARK,
    MASQUERADE,
    REJECT_MARK,
    SENT_MARK,
    TAKEN,
    set_name,
)
from pointsman_enforcer.dataplane.xtables.text import IPVS_PREFIX as PREFIX
from pointsman_enforcer.dataplane.xtables.text import WORDS, Chains, Jump
from pointsman_model.names import Family, format_address
from pointsman_model.plan import DataplaneSettings, DetectLocal

ROUTES: Final = 28781
"""Number of the routing table, and priority of the rule that leads to it."""
TABLES: Final = ("mangle", "nat", "filter")
ELEMENTS_MAX: Final = 1 << 20
SERVICES: Final = f"{PREFIX}SERVICES"
_OUTPUT: Final = f"{PREFIX}OUTPUT"
_NEW: Final = f"{PREFIX}NEW"
_PORTS: Final = f"{PREFIX}PORTS"
_KNOWN: Final = f"{PREFIX}KNOWN"
_LEAVE: Final = f"{PREFIX}LEAVE"
_DONE: Final = f"{PREFIX}TAKE"
_REJECT: Final = f"{PREFIX}REJECT"
_DROP: Final = f"{PREFIX}DROP"
_STAY: Final = f"{PREFIX}STAY"
_POSTROUTING: Final = f"{PREFIX}POSTROUTING"
_MASQUERADE: Final = f"{PREFIX}MASQUERADE"
_FILTER: Final = f"{PREFIX}FILTER"
_INPUT: Final = f"{PREFIX}INPUT"
_FORWARD: Final = f"{PREFIX}FORWARD"
_FOR_KNOWN: Final = frozenset({_OUTPUT, _KNOWN, _LEAVE, _STAY, _POSTROUTING, _MASQUERADE})
_SENT: Final = f"-m mark --mark 0x{SENT_MARK:x}"
_SENT_MASQUERADED: Final = f"-m mark --mark 0x{SENT_MARK | 1:x}"
_IS_SENT: Final = f"-m mark --mark 0x{SENT_MARK:x}/0xfffffffe"
_CLEAR: Final = "-j MARK --set-xmark 0x0/0xffffffff"
_IS_TAKEN_MASQUERADED: Final = f"-m mark --mark 0x{TAKEN | MASQUERADE:x}/0x{TAKEN | MASQUERADE:x}"
_IS_DROPPED: Final = f"-m mark --mark 0x{DROP_MARK:x}"
"""Dropped before ip_vs sees it, which answers for a virtual server known by address that only drains."""
_IS_TAKEN: Final = f"-m mark --mark 0x{TAKEN:x}/0x{TAKEN:x}"
_TO_KNOWN: Final = f"-m connmark --mark 0x{TAKEN:x}/0x{TAKEN:x} -m conntrack ! --ctstate DNAT -g {_KNOWN}"
"""Connections that somebody else translates, too, are theirs from the second packet on."""
_SETS: Final = {
    "vips": "hash:ip",
    "limited": "hash:ip,port",
    "allowed": "hash:ip,port,net",
    "hairpin": "hash:ip,port,ip",
    "nodes": "hash:net",
    "cidrs": "hash:net",
    "others": "hash:ip,port skbinfo",
    "pod": "hash:ip,port skbinfo",
    "host": "hash:ip,port skbinfo",
    "ports-others": "hash:net,port skbinfo",
    "ports-pod": "hash:net,port skbinfo",
    "ports-host": "hash:net,port skbinfo",
}
JUMPS: Final[tuple[Jump, ...]] = (
    ("mangle", "PREROUTING", SERVICES),
    ("mangle", "OUTPUT", _OUTPUT),
    ("mangle", "POSTROUTING", _LEAVE),
    ("nat", "PREROUTING", _STAY),
    ("nat", "OUTPUT", _STAY),
    ("nat", "POSTROUTING", _POSTROUTING),
    ("filter", "INPUT", _INPUT),
    ("filter", "OUTPUT", _FILTER),
    ("filter", "FORWARD", _FORWARD),
)


def retired_chains(family: Family, found: Chains) -> Chains:
    """The chains that are there, with only those rules left that known connections need."""
    known = static_chains(family, DataplaneSettings(), drop_invalid=False)
    kept = {name: rules for name, rules in known.items() if name[0] != "filter" and name[1] in _FOR_KNOWN}
    kept["mangle", SERVICES] = (
        f"{_IS_TAKEN} -j RETURN",
        _TO_KNOWN,
    )
    kept["filter", _INPUT] = (f"{_IS_TAKEN} -j ACCEPT",)
    kept["filter", _FORWARD] = ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",)
    return {name: kept.get(name, ()) for name in found}


def create_lines(family: Family) -> list[str]:
    """Commands of `ipset restore` that make the sets."""
    word = "inet" if family is Family.IPV4 else "inet6"
    lines = []
    for role, of in _SETS.items():
        kind, _, extension = of.partition(" ")
        line = f"create {set_name(role, family)} {kind} family {word} hashsize 1024 maxelem {ELEMENTS_MAX} {extension}"
        lines.append(line.rstrip())
    return lines


def routing_commands(family: Family) -> list[list[str]]:
    """Arguments of `ip` that route taken packets to this host: first the removal of an older rule, then both."""
    version = f"-{family.value}"
    mark = ["fwmark", f"0x{TAKEN:x}/0x{TAKEN:x}", "lookup", str(ROUTES), "priority", str(ROUTES)]
    return [
        [version, "route", "replace", "local", "default", "dev", "lo", "table", str(ROUTES)],
        [version, "rule", "add", *mark],
    ]


def static_chains(family: Family, settings: DataplaneSettings, *, drop_invalid: bool = True) -> Chains:
    """Every chain of ours."""
    words = "icmp-port-unreachable" if family is Family.IPV4 else "icmp6-port-unreachable"
    invalid = ("-m conntrack --ctstate INVALID -j DROP",) if drop_invalid else ()
    return {
        ("mangle", SERVICES): (
            f"{_IS_TAKEN} -j RETURN",
            f"-m conntrack --ctstate NEW -g {_NEW}",
            _TO_KNOWN,
        ),
        ("mangle", _OUTPUT): (
            f"{_IS_TAKEN_MASQUERADED} -j MARK --set-xmark 0x{SENT_MARK | 1:x}/0xffffffff",
            f"{_IS_TAKEN} -j MARK --set-xmark 0x{SENT_MARK:x}/0xffffffff",
            f"{_IS_SENT} -j RETURN",
            f"-j {SERVICES}",
        ),
        ("mangle", _KNOWN): (
            f"-m conntrack --ctdir ORIGINAL -j MARK --set-xmark 0x{TAKEN:x}/0xffffffff",
            *(
                (f"-p icmp -m conntrack --ctstate RELATED -j MARK --set-xmark 0x{TAKEN:x}/0xffffffff",)
                if family is Family.IPV4
                else ()
            ),
        ),
        ("mangle", _NEW): _new(family, settings),
        ("mangle", _PORTS): _ports(family, settings),
        ("mangle", _DONE): (
            f"{_IS_TAKEN} -j CONNMARK --set-xmark 0x{TAKEN:x}/0x{TAKEN:x}",
            f"{_IS_DROPPED} -j DROP",
        ),
        ("mangle", _REJECT): (f"-j MARK --set-xmark 0x{REJECT_MARK:x}/0xffffffff",),
        ("mangle", _DROP): ("-j DROP",),
        ("mangle", _LEAVE): tuple(
            f"{mark} -m conntrack --ctstatus CONFIRMED {_CLEAR}" for mark in (_IS_SENT, _IS_TAKEN)
        ),
        **{("mangle", name): rules for name, rules in _maps(family).items()},
        ("nat", _STAY): tuple(f"-p {word} {_IS_TAKEN} -j DNAT --to-destination :1-65535" for word in WORDS.values()),
        ("nat", _POSTROUTING): (
            f"{_SENT_MASQUERADED} -g {_MASQUERADE}",
            f"{_SENT} -m set --match-set {set_name('hairpin', family)} dst,dst,src -g {_MASQUERADE}",
            f"{_IS_TAKEN_MASQUERADED} -g {_MASQUERADE}",
            f"{_SENT} {_CLEAR}",
            f"{_IS_TAKEN} {_CLEAR}",
        ),
        ("nat", _MASQUERADE): (_CLEAR, "-j MASQUERADE --random-fully"),
        ("filter", _FILTER): (f"-m mark --mark 0x{REJECT_MARK:x} -j REJECT --reject-with {words}",),
        ("filter", _INPUT): (f"-j {_FILTER}", f"{_IS_TAKEN} -j ACCEPT"),
        ("filter", _FORWARD): (
            f"-j {_FILTER}",
            *invalid,
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
    }


def from_pods(settings: DataplaneSettings, family: Family) -> str | None:
    """The match for packets of pods; None if there is none."""
    if not settings.detects(family):
        return None
    if settings.detect_local is DetectLocal.CIDR:
        cidr = next(each for each in settings.detect_local_cidrs if each.family is family)
        return f"-s {format_address(cidr.address)}/{cidr.length} " if cidr.length else ""
    plus = "+" if settings.detect_local is DetectLocal.INTERFACE_PREFIX else ""
    return f"-i {settings.detect_local_interface}{plus} "


def _new(family: Family, settings: DataplaneSettings) -> tuple[str, ...]:
    limited, allowed = set_name("limited", family), set_name("allowed", family)
    return (
        f"-m set --match-set {limited} dst,dst -m set ! --match-set {allowed} dst,dst,src -g {_DROP}",
        *_dispatch(family, settings, ""),
        f"-m set --match-set {set_name('vips', family)} dst -g {_REJECT}",
        f"-m set --match-set {set_name('cidrs', family)} dst -g {_DROP}",
        f"-m set --match-set {set_name('nodes', family)} dst -m addrtype --dst-type LOCAL -g {_PORTS}",
    )


def _ports(family: Family, settings: DataplaneSettings) -> tuple[str, ...]:
    loopback = "127.0.0.0/8" if family is Family.IPV4 else "::1/128"
    return (f"-d {loopback} -j RETURN", *_dispatch(family, settings, "ports-"))


def _dispatch(family: Family, settings: DataplaneSettings, role: str) -> tuple[str, ...]:
    pods = from_pods(settings, family)
    classes = [("host", "-m addrtype --src-type LOCAL "), ("others", "")]
    if pods is not None:
        classes.insert(0, ("pod", pods))
    return tuple(
        f"{match}-m set --match-set {set_name(role + name, family)} dst,dst -g {_map_chain(role + name)}"
        for name, match in classes
    )


def _maps(family: Family) -> dict[str, tuple[str, ...]]:
    return {
        _map_chain(role): (f"-j SET --map-set {set_name(role, family)} dst,dst --map-mark", f"-g {_DONE}")
        for role, of in _SETS.items()
        if of.endswith("skbinfo")
    }


def _map_chain(role: str) -> str:
    return f"{PREFIX}{role.upper()}"
