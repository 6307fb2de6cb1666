# SPDX-License-Identifier: Apache-2.0
"""Numbers of ports and endpoints with session affinity: distinct, kept while they are needed, then free at last."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables import affinity, layout
from pointsman_enforcer.dataplane.nftables.affinity import AffinityPort, PortNumbers, port_of, previous_members
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import Records, pack, section_of, unpack
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_model import names
from pointsman_model.plan import PlanEndpoint
from support.enforcer_plans import numbered

IPS = section_of(Family.IPV4, layout.AFFINITY_IDS).number
NODE_PORTS = section_of(Family.IPV4, layout.AFFINITY_NODEPORT_IDS).number
IPV6 = section_of(Family.IPV6, layout.AFFINITY_IDS).number
CONTEXT = RenderContext(detects=frozenset(names.Family))
NUMBER = (0xC0010000).to_bytes(4, "little")


def frontend(number: int) -> bytes:
    return layout.frontend_key(number.to_bytes(4), 6, 80)


def test_a_port_keeps_its_number_and_others_have_others() -> None:
    numbers = PortNumbers()
    promised = [numbers.promise(IPS, frontend(port)) for port in range(3000)]
    assert len(set(promised)) == len(promised)
    assert [numbers.promise(IPS, frontend(port)) for port in range(3000)] == promised
    assert {port_of(number) for number in promised} == set(promised)


def test_a_new_process_gives_the_same_number_where_it_is_free() -> None:
    assert PortNumbers().promise(IPS, frontend(7)) == PortNumbers().promise(IPS, frontend(7))


def test_families_have_numbers_of_their_own() -> None:
    numbers = PortNumbers()
    shared = numbers.promise(IPS, frontend(1))
    numbers.found(IPV6, {b"somebody": shared})
    assert numbers.promise(IPS, frontend(1)) == shared
    assert numbers.promise(IPV6, b"somebody") == shared


def test_what_the_kernel_has_is_adopted_and_not_given_to_others() -> None:
    wanted = PortNumbers().promise(IPS, frontend(1))
    numbers = PortNumbers()
    numbers.found(IPS, {frontend(2): wanted})
    assert numbers.promise(IPS, frontend(1)) != wanted
    assert numbers.promise(IPS, frontend(2)) == wanted


def test_a_port_that_takes_over_anothers_frontend_gets_a_number_of_its_own() -> None:
    """Of two ports that say they have a number, the first to ask has it."""
    numbers = PortNumbers()
    numbers.found(IPS, {frontend(1): NUMBER, frontend(2): NUMBER})
    assert numbers.promise(IPS, frontend(2)) == NUMBER
    assert numbers.promise(IPS, frontend(1)) != NUMBER


def test_a_number_is_free_when_its_last_frontend_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "PORTS_MAX", 2)
    numbers = PortNumbers()
    number = numbers.promise(IPS, frontend(1))
    numbers.commit({}, {IPS: {frontend(1): number}, NODE_PORTS: {b"a node port": number}})
    numbers.commit({IPS: {frontend(1): number}}, {})
    assert numbers.promise(IPS, frontend(1)) != number
    with pytest.raises(UnsupportedPlanError):
        numbers.promise(IPS, frontend(2))
    numbers.commit({NODE_PORTS: {b"a node port": number}}, {})
    assert numbers.promise(IPS, frontend(2)) == number


def test_a_number_whose_port_is_gone_is_the_last_to_be_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of the port that had it are remembered under it for a while."""
    monkeypatch.setattr(affinity, "PORTS_MAX", 3)
    numbers = PortNumbers()
    used = []
    for _ in range(7):
        number = numbers.promise(IPS, frontend(1))
        used.append(number)
        numbers.commit({}, {IPS: {frontend(1): number}})
        numbers.commit({IPS: {frontend(1): number}}, {})
    assert len(set(used[:3])) == 3
    assert used[3:6] == used[:3]
    assert used[6] == used[0]


def test_numbers_that_became_free_are_those_of_their_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "PORTS_MAX", 1)
    numbers = PortNumbers()
    number = numbers.promise(IPS, frontend(1))
    numbers.promise(IPV6, b"somebody")
    numbers.commit({IPS: {frontend(1): number}}, {})
    with pytest.raises(UnsupportedPlanError):
        numbers.promise(IPV6, b"somebody else")
    assert numbers.promise(IPS, frontend(2)) == number


def test_services_that_are_rendered_together_have_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is in the kernel yet, nor of any other service with session affinity."""
    monkeypatch.setattr(affinity, "PORTS_MAX", 50)
    numbers, count = PortNumbers(), 50
    found: set[bytes] = set()
    for index in range(count):
        plan = replace(numbered(index), affinity_timeout_seconds=60)
        found.update(unpack(render_service(plan, b"", CONTEXT, numbers))[IPS].values())
    assert len(found) == count


def test_when_all_numbers_are_taken_the_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "PORTS_MAX", 3)
    numbers = PortNumbers()
    for port in range(3):
        numbers.promise(IPS, frontend(port))
    with pytest.raises(UnsupportedPlanError, match="has its 3 ports with session affinity already"):
        numbers.promise(IPS, frontend(3))


ENDPOINTS = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 5), min_size=1, max_size=12).map(
    lambda found: tuple(sorted(PlanEndpoint(address.to_bytes(4), 80, weight) for address, weight in found.items()))
)


def rendered(sets: dict[int, tuple[PlanEndpoint, ...]], previous: bytes = b"") -> dict[int, Records]:
    sections: dict[int, Records] = {}
    members = previous_members(previous).get((Family.IPV4, NUMBER), {})
    AffinityPort(Family.IPV4, 6, NUMBER, members).render(sections, sets)
    return sections


@given(ENDPOINTS, ENDPOINTS)
def test_every_pick_is_an_endpoint_of_its_set(
    cluster: tuple[PlanEndpoint, ...], local: tuple[PlanEndpoint, ...]
) -> None:
    sections = rendered({0: cluster, 1: local})
    for index, spec in enumerate((layout.AFFINITY_ENDPOINTS, layout.AFFINITY_LOCAL_ENDPOINTS)):
        members = {key[4:]: value for key, value in sections[section_of(Family.IPV4, spec).number].items()}
        endpoints = (cluster, local)[index]
        assert set(members.values()) == {layout.endpoint_value(each.address, each.port) for each in endpoints}
        assert {port_of(member) for member in members} == {NUMBER}
        picks = {
            value
            for key, value in sections[section_of(Family.IPV4, layout.AFFINITY_PICKS).number].items()
            if (int.from_bytes(key[4:], "little") >= layout.LOCAL_SLOT_BASE) == bool(index)
        }
        assert picks == members.keys()


@given(ENDPOINTS, ENDPOINTS)
def test_an_endpoint_that_stays_keeps_its_number(
    before: tuple[PlanEndpoint, ...], after: tuple[PlanEndpoint, ...]
) -> None:
    number = section_of(Family.IPV4, layout.AFFINITY_ENDPOINTS).number
    first = rendered({0: before})
    second = rendered({0: before + tuple(each for each in after if each not in before)}, pack(first))
    assert first[number].items() <= second[number].items()


def test_endpoints_of_equal_hash_get_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "endpoint_number", lambda _: 2**64 - 1)
    endpoints = tuple(PlanEndpoint(bytes((10, 0, 0, host)), 80) for host in range(5))
    members = rendered({0: endpoints})[section_of(Family.IPV4, layout.AFFINITY_ENDPOINTS).number]
    assert len(members) == len(endpoints)


def test_a_third_endpoint_set_is_refused() -> None:
    with pytest.raises(UnsupportedPlanError, match="2 endpoint sets at most"):
        rendered({2: (PlanEndpoint(b"\n\0\0\1", 80),)})
