# SPDX-License-Identifier: Apache-2.0
"""The chains that do not depend on services, in the order a packet meets them, and the sets they ask.

Nat rules decide and only they: they see the first packet of each connection. REJECT is not allowed there, so a verdict
against a connection travels as the whole mark of its doomed packet to the filter table, which holds no service at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pointsman_enforcer.dataplane.iptables.layout import PORTS, VIPS
from pointsman_enforcer.dataplane.xtables.text import PREFIX, SET_PREFIX, TABLES, Chains, Jump, Saved
from pointsman_model.names import Family, format_address, parse_address
from pointsman_model.plan import DataplaneSettings, DetectLocal

SERVICES: Final = f"{PREFIX}SERVICES"
NODEPORTS: Final = f"{PREFIX}NODEPORTS"
POSTROUTING: Final = f"{PREFIX}POSTROUTING"
MARK: Final = f"{PREFIX}MARK"
REJECT: Final = f"{PREFIX}REJECT"
DROP: Final = f"{PREFIX}DROP"
FILTER: Final = f"{PREFIX}FILTER"
INPUT: Final = f"{PREFIX}INPUT"
FORWARD: Final = f"{PREFIX}FORWARD"
CANARY: Final = f"{PREFIX}CANARY"
MASQUERADE: Final = f"{PREFIX}MASQUERADE"
MARTIANS: Final = f"{PREFIX}MARTIANS"

_DESTINATION: Final = re.compile(r"-j DNAT --to-destination \[?(?P<address>[0-9a-f.:]+?)\]?:(?P<port>\d+)$")
REJECT_MARK: Final = 0x706D0001
DROP_MARK: Final = 0x706D0002
"""The packets that carry these go no further, so no other user of marks meets them, save rules between the hooks."""

LOCALHOST: Final = "-s 127.0.0.0/8"
"""What a rule says that counts connections to node ports on the loopback address."""


def set_name(role: str, family: Family) -> str:
    """For example `pointsman-vips4`."""
    return f"{SET_PREFIX}{role}{family.value}"


_SET_TYPES: Final = {
    "vips": "hash:ip",
    "closed": "hash:ip",
    "limited": "hash:ip,port",
    "allowed": "hash:ip,port,net",
    "hairpin": "hash:ip,port,ip",
    "nodes": "hash:net",
    "cidrs": "hash:net",
    "health": "bitmap:port",
}
ELEMENTS_MAX: Final = 1 << 20
"""Of one set; memory is taken as they come."""


def set_names(family: Family) -> list[str]:
    """The sets that static rules ask."""
    return [set_name(role, family) for role in _SET_TYPES]


def refusing_sets() -> set[str]:
    """The sets by which static rules refuse."""
    return {set_name(role, family) for role in ("closed", "cidrs") for family in Family}


def create_lines(family: Family) -> list[str]:
    """Commands of `ipset restore` that make the sets which static rules ask."""
    word = "inet" if family is Family.IPV4 else "inet6"
    hashed = f"family {word} hashsize 1024 maxelem {ELEMENTS_MAX}"
    return [
        f"create {set_name(role, family)} {of} {'range 0-65535' if of == 'bitmap:port' else hashed}"
        for role, of in _SET_TYPES.items()
    ]


def memory_line(name: str, family: Family) -> str:
    """The command that makes a set of remembered clients; rules say how long each is remembered."""
    word = "inet" if family is Family.IPV4 else "inet6"
    return f"create {name} hash:ip family {word} hashsize 64 maxelem {ELEMENTS_MAX} timeout 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSettings:
    """What the static rules depend on.

    Attributes:
        masquerade_bit: the one bit of the packet mark that is ours between dispatch and postrouting, 0..31.
        dataplane: the node's settings in effect.
        localhost_node_ports: node ports answer on 127.0.0.1, where node port addresses include it.
        drop_invalid: packets that connection tracking calls INVALID are not forwarded.
        masquerade_local: also what stays on this host. A proxy that rules lead to must see who asks.
    """

    masquerade_bit: int
    dataplane: DataplaneSettings
    localhost_node_ports: bool
    drop_invalid: bool
    masquerade_local: bool = True

    @property
    def masked_bit(self) -> str:
        """As the tool prints it."""
        return f"0x{1 << self.masquerade_bit:x}/0x{1 << self.masquerade_bit:x}"

    def serves_localhost(self, family: Family) -> bool:
        """Whether node ports answer on the loopback address."""
        if not self.localhost_node_ports or family is not Family.IPV4:
            return False
        mine = [each for each in self.dataplane.node_port_addresses if each.family is family]
        return any(each.length == 0 or (each.address[0] == 127 and each.length >= 8) for each in mine)


def from_pods(settings: DataplaneSettings, family: Family, *, negated: bool = False) -> tuple[str, str] | None:
    """The match for packets of pods, or of all others, as (address match, interface match); None if never.

    Two parts, because the tool prints the destination between them.
    """
    no = "! " if negated else ""
    if settings.detect_local is DetectLocal.NONE:
        return None
    if settings.detect_local is DetectLocal.CIDR:
        cidr = next((each for each in settings.detect_local_cidrs if each.family is family), None)
        if cidr is None or (negated and cidr.length == 0):
            return None
        return (f"{no}-s {format_address(cidr.address)}/{cidr.length} " if cidr.length else "", "")
    plus = "+" if settings.detect_local is DetectLocal.INTERFACE_PREFIX else ""
    return ("", f"{no}-i {settings.detect_local_interface}{plus} ")


def jumps(family: Family, settings: StaticSettings) -> list[Jump]:
    """Rules that stand first in chains which belong to everybody."""
    found = [
        ("nat", "PREROUTING", SERVICES),
        ("nat", "OUTPUT", SERVICES),
        ("nat", "POSTROUTING", POSTROUTING),
        ("filter", "FORWARD", FORWARD),
        ("filter", "INPUT", INPUT),
        ("filter", "OUTPUT", FILTER),
    ]
    return [*found, ("mangle", "PREROUTING", MARTIANS)] if settings.serves_localhost(family) else found


def static_chains(family: Family, settings: StaticSettings) -> Chains:
    """Every static chain; those of the trees are not among them, though static ones lead there."""
    canaries: Chains = {(table, CANARY): () for table in TABLES}
    return {
        **canaries,
        ("mangle", MARTIANS): ("! -i lo -d 127.0.0.0/8 -j DROP",) if settings.serves_localhost(family) else (),
        ("nat", MARK): (f"-j MARK --set-xmark {settings.masked_bit}",),
        ("nat", REJECT): (f"-j MARK --set-xmark 0x{REJECT_MARK:x}/0xffffffff", "-j ACCEPT"),
        ("nat", DROP): (f"-j MARK --set-xmark 0x{DROP_MARK:x}/0xffffffff", "-j ACCEPT"),
        ("nat", NODEPORTS): _nodeports(family, settings),
        ("nat", SERVICES): _services(family, settings),
        ("nat", MASQUERADE): (
            f"-j MARK --set-xmark 0x{1 << settings.masquerade_bit:x}/0x0",
            "-j MASQUERADE --random-fully",
        ),
        ("nat", POSTROUTING): _postrouting(family, settings),
        ("filter", FILTER): _filter(family),
        ("filter", INPUT): (
            f"-j {FILTER}",
            f"-p tcp -m set --match-set {set_name('health', family)} dst -j ACCEPT",
        ),
        ("filter", FORWARD): _forward(settings),
    }


def destinations(saved: Saved) -> set[tuple[bytes, int]]:
    """Every address and port that rules send packets to."""
    rules = (rule for lines in saved.chains.values() for rule in lines)
    found = (match for rule in rules if (match := _DESTINATION.search(rule)))
    return {(parse_address(match["address"]), int(match["port"])) for match in found}


def _services(family: Family, settings: StaticSettings) -> tuple[str, ...]:
    vips = f"-m set --match-set {set_name('vips', family)} dst"
    limited, allowed = set_name("limited", family), set_name("allowed", family)
    outside = f"-m set --match-set {limited} dst,dst -m set ! --match-set {allowed} dst,dst,src"
    return (
        *_cluster_ip_masquerade(family, settings, vips),
        f"{outside} -g {DROP}",
        f"-j {VIPS}",
        f"-m set --match-set {set_name('closed', family)} dst -g {REJECT}",
        f"-m set --match-set {set_name('cidrs', family)} dst -g {DROP}",
        f"-m set --match-set {set_name('nodes', family)} dst -m addrtype --dst-type LOCAL -g {NODEPORTS}",
    )


def _cluster_ip_masquerade(family: Family, settings: StaticSettings, vips: str) -> tuple[str, ...]:
    if settings.dataplane.masquerade_all:
        return (f"{vips} -j {MARK}",)
    others = from_pods(settings.dataplane, family, negated=True)
    return () if others is None else (f"{others[0]}{others[1]}{vips} -j {MARK}",)


def _nodeports(family: Family, settings: StaticSettings) -> tuple[str, ...]:
    """On loopback only where it is served; packets from elsewhere to it were dropped before."""
    if settings.serves_localhost(family):
        return (f"-j {PORTS}",)
    loopback = "127.0.0.0/8" if family is Family.IPV4 else "::1/128"
    return (f"-d {loopback} -j RETURN", f"-j {PORTS}")


def _postrouting(family: Family, settings: StaticSettings) -> tuple[str, ...]:
    hairpin = f"-m set --match-set {set_name('hairpin', family)} dst,dst,src"
    elsewhere = "" if settings.masquerade_local else "! -o lo "
    counted = (f"{LOCALHOST} -m mark --mark {settings.masked_bit}",) if settings.serves_localhost(family) else ()
    return (
        *counted,
        f"{elsewhere}-m mark --mark {settings.masked_bit} -g {MASQUERADE}",
        f"-m conntrack --ctstate DNAT {hairpin} -j MASQUERADE --random-fully",
    )


def _filter(family: Family) -> tuple[str, ...]:
    words = "icmp-port-unreachable" if family is Family.IPV4 else "icmp6-port-unreachable"
    return (
        f"-m mark --mark 0x{REJECT_MARK:x} -j REJECT --reject-with {words}",
        f"-m mark --mark 0x{DROP_MARK:x} -j DROP",
    )


def _forward(settings: StaticSettings) -> tuple[str, ...]:
    invalid = ("-m conntrack --ctstate INVALID -j DROP",) if settings.drop_invalid else ()
    return (
        f"-j {FILTER}",
        *invalid,
        f"-m mark --mark {settings.masked_bit} -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )
