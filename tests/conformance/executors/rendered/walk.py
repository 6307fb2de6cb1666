# SPDX-License-Identifier: Apache-2.0
"""A packet's way through hooks, chains and rules.

Where a rule draws a random number, every number is tried: `ways` yields what becomes of the packet for each. What a
rule remembers of a packet stays in the table, for the next packet to meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.executors.rendered.expressions import Then, evaluate
from conformance.executors.rendered.packet import Dice, Packet, Registers, Situation, UnknownRuleError

from pointsman_enforcer.dataplane.nftables import uapi
from support.fake_nftables import FakeTable, Rule

_JUMPS_MAX = 16


def ways(table: FakeTable, packet: Packet, *, local: frozenset[bytes]) -> Iterator[Packet]:
    """What becomes of a packet, for every number that may be drawn on its way.

    Args:
        table: the rules.
        packet: as it leaves a process of this host, or comes in by an interface.
        local: addresses of this host.

    Raises:
        UnknownRuleError: a rule on its way says something that is not known here.
    """
    given: list[int] = []
    while True:
        dice = Dice(given)
        yield _through_hooks(table, packet, dice, local)
        given = [*given, *[0] * (len(dice.sides) - len(given))]
        while given and given[-1] + 1 >= dice.sides[len(given) - 1]:
            given.pop()
        if not given:
            return
        given[-1] += 1


def _through_hooks(table: FakeTable, packet: Packet, dice: Dice, local: frozenset[bytes]) -> Packet:
    """What comes in for this host itself leaves by no interface, so there is no postrouting for it."""
    first = uapi.NF_INET_PRE_ROUTING if packet.interface else uapi.NF_INET_LOCAL_OUT
    packet = _through(Situation(table, packet, dice, first, local))
    is_delivered = bool(packet.interface) and packet.destination in local
    if packet.refusal or is_delivered:
        return packet
    return replace(_through(Situation(table, packet, dice, uapi.NF_INET_POST_ROUTING, local)), has_left=True)


def _through(at: Situation) -> Packet:
    chain = at.table.hooks.get(at.hook)
    if chain is not None and not _chain(at, chain, depth=1):
        policy = at.table.policies.get(chain, uapi.NF_ACCEPT)
        if policy != uapi.NF_ACCEPT:
            raise UnknownRuleError(f"policy {policy} of chain {chain} is not known here")
    return at.packet


def _chain(at: Situation, name: str, *, depth: int) -> bool:
    """Whether the way through this hook has ended in it."""
    if depth > _JUMPS_MAX:
        raise UnknownRuleError(f"more than {_JUMPS_MAX} jumps deep in chain {name}")
    for rule in at.table.chains[name]:
        outcome = _rule(at, rule, depth)
        if outcome is not Then.NEXT:
            return outcome is Then.END
    return False


def _rule(at: Situation, rule: Rule, depth: int) -> Then:
    """NEXT: the next rule; LEAVE: this chain is over; END: this hook is."""
    at.registers = Registers()
    for expression in rule:
        outcome = evaluate(expression, at)
        if outcome is Then.MISS:
            return Then.NEXT
        if isinstance(outcome, Then):
            if outcome is not Then.NEXT:
                return outcome
            continue
        if _chain(at, outcome.chain, depth=depth + 1):
            return Then.END
        return Then.LEAVE if outcome.is_goto else Then.NEXT
    return Then.NEXT
