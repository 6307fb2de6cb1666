# SPDX-License-Identifier: Apache-2.0
"""A change writes the chains that differ and no other, and what is saved by the tool is understood."""

from __future__ import annotations

import random

import pytest

from pointsman_enforcer.dataplane.base import OccupiedError
from pointsman_enforcer.dataplane.iptables import layout, static
from pointsman_enforcer.dataplane.iptables.change import IptablesChange, Ledger, diff
from pointsman_enforcer.dataplane.iptables.layout import Id, Kind
from pointsman_enforcer.dataplane.iptables.observe import Observation
from pointsman_enforcer.dataplane.xtables.text import parse_rules, restore_text
from pointsman_model.names import Family

LEAF = b"-d 172.30.0.41/32 -p tcp -m tcp --dport 80 -g POINTSMAN-E-1"


def record(last: int, port: int = 80) -> Id:
    return Id(Kind.FRONTEND, Family.IPV4, layout.frontend_key(bytes((172, 30, 0, last)), 6, port))


def applied(ledger: Ledger, old: bytes, new: bytes) -> dict[str, tuple[str, ...] | None]:
    change = diff(old, new)
    chains = ledger.resolve(change).chains
    ledger.commit(change)
    return {name: rules for (_, name), rules in chains.items()}


def test_the_first_address_of_a_branch_makes_the_way_to_it_and_the_last_one_removes_it() -> None:
    ledger = Ledger()
    first = layout.pack({record(41): LEAF})
    made = applied(ledger, b"", first)
    assert set(made) == {"POINTSMAN-VIPS", "POINTSMAN-V-9", "POINTSMAN-V-92"}
    assert made["POINTSMAN-VIPS"] == ("-d 0.0.0.9/0.0.0.15 -j POINTSMAN-V-9",)
    assert made["POINTSMAN-V-9"] == ("-d 0.0.0.32/0.0.0.240 -j POINTSMAN-V-92",)
    beside = layout.pack({record(41, 81): LEAF.replace(b"80", b"81")})
    assert set(applied(ledger, b"", beside)) == {"POINTSMAN-V-92"}
    assert set(applied(ledger, beside, b"")) == {"POINTSMAN-V-92"}
    gone = applied(ledger, first, b"")
    assert gone == {"POINTSMAN-VIPS": (), "POINTSMAN-V-9": None, "POINTSMAN-V-92": None}


def test_equal_renderings_change_nothing() -> None:
    rendering = layout.pack({record(1): LEAF})
    assert diff(rendering, rendering).is_empty


def test_an_address_that_another_service_has_is_refused() -> None:
    ledger = Ledger()
    applied(ledger, b"", layout.pack({record(1): LEAF}))
    with pytest.raises(OccupiedError):
        ledger.resolve(diff(b"", layout.pack({record(1): LEAF + b"2"})))


def test_shared_elements_come_with_the_first_and_go_with_the_last_service() -> None:
    rendering = layout.pack({Id(Kind.SHARED, Family.IPV4, b"pointsman-vips4 172.30.0.1"): b""})
    ledger = Ledger()
    seen = []
    for change in (diff(b"", rendering), diff(b"", rendering), diff(rendering, b""), diff(rendering, b"")):
        operations = ledger.resolve(change)
        ledger.commit(change)
        seen.append((operations.sets_before, operations.sets_after))
    added, removed = ["add pointsman-vips4 172.30.0.1"], ["del pointsman-vips4 172.30.0.1"]
    assert seen == [(added, []), ([], []), ([], []), ([], removed)]


def test_other_ports_of_an_address_are_refused_only_once_its_own_are_served() -> None:
    closed = Id(Kind.SHARED, Family.IPV4, b"pointsman-closed4 172.30.0.1")
    operations = Ledger().resolve(diff(b"", layout.pack({closed: b"", record(1): LEAF})))
    assert operations.sets_before == []
    assert operations.chains
    assert operations.sets_after == ["add pointsman-closed4 172.30.0.1"]


@pytest.mark.parametrize("seed", range(5))
def test_changes_in_any_order_lead_to_the_same_chains_as_all_at_once(seed: int) -> None:
    chance = random.Random(seed)
    services = {
        number: layout.pack({record(chance.randrange(256), number + 1): b"-g POINTSMAN-E-%d" % number})
        for number in range(60)
    }
    ledger, kept, chains = Ledger(), dict.fromkeys(services, b""), {}
    for _ in range(300):
        number = chance.randrange(60)
        new = b"" if kept[number] else services[number]
        for name, rules in applied(ledger, kept[number], new).items():
            chains.update({name: rules}) if rules is not None else chains.pop(name, None)
        kept[number] = new
    whole = Ledger()
    for rendering in kept.values():
        applied(whole, b"", rendering)
    expected = {name: rules for (of, name), rules in whole.all_chains().items() if of is Family.IPV4}
    assert {name: rules for name, rules in chains.items() if rules or not layout.is_root(name)} == {
        name: rules for name, rules in expected.items() if rules or not layout.is_root(name)
    }


def test_a_restarted_process_finds_what_it_wrote() -> None:
    rendering = layout.pack({record(41): LEAF, Id(Kind.ENDPOINTS, Family.IPV4, b"POINTSMAN-E-1"): b"-p tcp -j DNAT"})
    writer = Ledger()
    change = diff(b"", rendering)
    chains = {("nat", name): rules for (_, name), rules in writer.resolve(change).chains.items()}
    text = restore_text(chains, jumps=[("nat", "OUTPUT", static.SERVICES)]).replace("-I OUTPUT 1", "-A OUTPUT")
    saved = parse_rules(text + ":FOREIGN - [0:0]\n-A FOREIGN -j DROP\n")
    assert saved.jumps == {("nat", "OUTPUT", static.SERVICES)}
    reader, observation = Ledger(), Observation()
    observation.read(Family.IPV4, saved, reader)
    assert layout.pack(observation.claim(layout.unpack(rendering), reader)) == rendering
    assert list(observation.leftover(reader)) == []


def test_what_nobody_claims_is_removed_at_once() -> None:
    reader, observation = Ledger(), Observation()
    saved = parse_rules("*nat\n:POINTSMAN-V-92 - [0:0]\n-A POINTSMAN-V-92 " + LEAF.decode() + "\nCOMMIT\n")
    observation.read(Family.IPV4, saved, reader)
    [change] = observation.leftover(reader)
    assert isinstance(change, IptablesChange)
    assert reader.resolve(change).chains[Family.IPV4, "POINTSMAN-V-92"] is None


def test_ports_are_found_by_their_upper_bits() -> None:
    leaf = layout.leaf_of(layout.frontend_key(b"", 17, 30001))
    assert leaf == "POINTSMAN-P-u753"
    assert layout.link(leaf, Family.IPV4) == "-p udp -m udp --dport 30000:30015 -j POINTSMAN-P-u753"
    assert layout.parent_of(leaf) == "POINTSMAN-P-u75"
    assert layout.link("POINTSMAN-P-u75", Family.IPV4) == "-p udp -m udp --dport 29952:30207 -j POINTSMAN-P-u75"
