# SPDX-License-Identifier: Apache-2.0
"""One simulated node: the real Dialer, PlanSession, PlanStore and Reconciler over a kernel of bytes.

What is played here is the shell (`feed/plan_stream.py`): streams are opened and closed as the dialer says, and reports
go to the stream that brought the transaction. A sync is a coroutine that is resumed by hand, so anything may happen
between its halves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from simulation.byte_kernel import ByteChange, ByteDataplane, Kernel
from simulation.link import Link
from simulation.sim_clock import SimClock

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core import dialing
from pointsman_enforcer.core.dialing import Dialer, Ending
from pointsman_enforcer.core.errors import PlannerSilentError, PlanProtocolError
from pointsman_enforcer.core.plan_session import Action, Commit, GiveUp, PlanSession, Programmed, Redirected, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.planner_directory import PlannerDirectory, PlannerMemory
from pointsman_enforcer.core.transaction import Transaction
from pointsman_enforcer.dataplane.reconciler import Reconciler, ReconcilerLimits
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.names import ServiceKey

_RETRY_SECONDS = 1.0
Disk = Literal["sound", "lost", "behind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a node is given by the world."""

    clock: SimClock
    random: Random
    planners: tuple[str, ...]
    """Their addresses, as configured."""
    connect: Callable[[Node, str], Link | None]
    """A new stream to an address; None when nobody listens there."""
    on_removal: Callable[[Node, ServiceKey], None]
    say: Callable[[str], None]


class Node:
    """A machine with a kernel and a disk, and the enforcer that runs on it now."""

    def __init__(self, name: str, surroundings: Surroundings) -> None:
        self.name = name
        self.kernel = Kernel()
        self.links: dict[int, Link] = {}
        """Open streams by the dialer's number; a second one is a move."""
        self._world = surroundings
        self._clock = surroundings.clock
        self._disk: Transaction | None = None
        self.start(PlanStore(), None)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self, store: PlanStore, memory: PlannerMemory | None) -> None:
        """The enforcer begins with this plan, knowing these planners; what ran before is gone."""
        self.store = store
        self._reconciler: Reconciler[ByteChange] = Reconciler(
            dataplane=ByteDataplane(self.kernel, on_removal=lambda key: self._world.on_removal(self, key)),
            store=store,
            clock=self._clock,
            on_synced=self._synced,
            # Reading back is bounded by real time in the field; here every refusal may look at once.
            limits=ReconcilerLimits(observe_interval_seconds=0.5),
        )
        directory = PlannerDirectory(node=self.name, configured=self._world.planners, memory=memory)
        self._dialer = Dialer(directory, random=Random(self._world.random.random()))
        self._sync: Coroutine[Any, Any, None] | None = None
        self.wants_sync = store.facts is not None
        self._retry_at = float("inf")
        self.position_seen = store.position.revision
        self.is_confirmed = False
        """Whether a planner has brought a whole plan since the start."""
        self.named: set[ServiceKey] = set()
        """Services that planners have removed since the start."""

    def begin(self) -> None:
        """Dial for the first time."""
        self._follow(self._dialer.begin(self._clock.monotonic()))

    def restart(self, disk: Disk) -> None:
        """The process ends and begins again; the kernel stays."""
        memory = self._dialer.directory.memory if disk != "lost" else None
        self._drop_everything()
        now = self.store.snapshot() if self.store.facts is not None else None
        self.start(_loaded({"sound": now, "lost": None, "behind": self._disk}[disk]), memory)
        self.begin()

    def lose_power(self) -> None:
        """The kernel is empty, and the disk is behind."""
        self._drop_everything()
        self.kernel.held.clear()
        self.start(_loaded(self._disk), None)
        self.begin()

    def flush_disk(self) -> None:
        """What is held now survives a power loss."""
        if self.store.facts is not None:
            self._disk = self.store.snapshot()

    def _drop_everything(self) -> None:
        if self._sync is not None:
            self._sync.close()
        for link in self.links.values():
            link.node_closed()
        self.links.clear()

    # -- streams -----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, data: bytes | None) -> None:
        """A message of the planner, or the end of the stream."""
        session = link.session
        if session is None:
            return
        if data is None:
            self._ended(link, Ending.LOST)
            return
        message = pb.StreamNodePlanResponse.FromString(data)
        now = self._clock.monotonic()
        self._guarded(link, lambda: session.receive(message, now))
        if message.HasField("welcome"):
            self._follow(self._dialer.welcomed(link.dialled, session.planner_id, session.candidates, now))

    def tick(self) -> None:
        """Time has passed."""
        now = self._clock.monotonic()
        for link in list(self.links.values()):
            session = link.session
            if session is not None and session.next_tick() <= now:
                self._guarded(link, lambda session=session: session.tick(now))  # type: ignore[misc]  # a default binds
        if self._dialer.next_tick() <= now:
            self._follow(self._dialer.tick(now))
        if now >= self._retry_at:
            self._retry_at, self.wants_sync = float("inf"), True

    def _follow(self, actions: Sequence[dialing.Action]) -> None:
        for action in actions:
            if isinstance(action, dialing.Open):
                self._open(action)
            elif isinstance(action, dialing.Close):
                link = self.links.pop(action.stream)
                link.node_closed()
                self._confirm_others()
            else:
                self._follow(self._dialer.found(action.source, (), self._clock.monotonic()))

    def _open(self, action: dialing.Open) -> None:
        now = self._clock.monotonic()
        link = self._world.connect(self, action.target.address)
        if link is None:
            self._follow(self._dialer.ended(action.stream, Ending.LOST, now))
            return
        self._world.say(f"{self.name} opens {link}{f', without {action.unreachable}' if action.unreachable else ''}")
        hello = pb.Hello(node_name=self.name, instance_id="sim", unreachable_planners=action.unreachable)
        link.dialled = action.stream
        session = link.session = PlanSession(hello=hello, store=self.store, now=now)
        self.links[action.stream] = link
        self._guarded(link, lambda: session.open(now))

    def _guarded(self, link: Link, act: Callable[[], Sequence[Action]]) -> None:
        """Do what a session says, and end the stream if it says that a rule was broken."""
        try:
            actions = act()
        except PlannerSilentError as error:
            self._world.say(f"{self.name} gives up {link}: {error}")
            self._ended(link, Ending.SILENT)
        except PlanProtocolError as error:
            self._world.say(f"{self.name} gives up {link}: {error}")
            self._ended(link, Ending.FAULTY)
        else:
            self._perform(link, actions)

    def _ended(self, link: Link, ending: Ending) -> None:
        self.links.pop(link.dialled, None)
        link.node_closed()
        self._confirm_others()
        self._follow(self._dialer.ended(link.dialled, ending, self._clock.monotonic()))

    def _confirm_others(self) -> None:
        now = self._clock.monotonic()
        for other in list(self.links.values()):
            session = other.session
            if session is not None:
                self._guarded(other, lambda session=session: session.confirm(now))  # type: ignore[misc]  # a default binds

    def _perform(self, link: Link, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                link.send_to_planner(action.message.SerializeToString())
            elif isinstance(action, Commit):
                self._committed(link, action)
            elif isinstance(action, GiveUp):
                self._world.say(f"{self.name} gives up {link}: {action.error}")
                self._ended(link, Ending.FAULTY)
            elif isinstance(action, Redirected):
                self._follow(self._dialer.redirected(link.dialled, action.redirect, self._clock.monotonic()))

    def has_on_disk(self) -> None:
        """Say of each stream's newest transaction that it is on disk."""
        for link in list(self.links.values()):
            if link.session is not None:
                self._perform(link, link.session.received(link.newest, self._clock.monotonic()))

    def has_verified(self) -> None:
        """Say that the kernel was read back, unless it is being changed; see `dataplane/verification.py`."""
        if self.is_busy or self._reconciler.dirty_count:
            return
        digest = self.store.digest
        programmed = self._reconciler.failures.correct(digest)
        for link in list(self.links.values()):
            if link.session is not None:
                self._perform(link, link.session.verified(digest, programmed, self._clock.monotonic()))

    def _committed(self, link: Link, commit: Commit) -> None:
        link.newest = commit.transaction.nonce
        self.is_confirmed = self.is_confirmed or commit.in_sync
        self.named |= {change.key for change in commit.changes if not change.new_digest}
        self.position_seen = max(self.position_seen, commit.transaction.position.revision)
        self._reconciler.commit(commit, stream=link, received_at=self._clock.monotonic(), received_ns=0)
        self.wants_sync = True
        for other in self.links.values():
            if other is not link:
                other.is_disturbed = True
                if commit.in_sync and other.dialled < link.dialled and other.session is not None:
                    other.session.retire()

    # -- the kernel --------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a sync runs, or is asked for."""
        return self._sync is not None or self.wants_sync

    def step(self) -> None:
        """Begin a sync, or go on with the one that runs, to its next pause."""
        if self._sync is None:
            self.wants_sync = False
            self._sync = self._reconciler.run()
        try:
            self._sync.send(None)
        except StopIteration:
            self._sync = None
        except ApplyError:
            self._sync = None
            self._retry_at = self._clock.monotonic() + _RETRY_SECONDS

    def _synced(self, pending: Pending, programmed: Programmed, _tally: Tally) -> None:
        self._report(pending.stream, programmed)
        for stream, (nonce, position) in pending.others.items():
            self._report(stream, replace(programmed, nonce=nonce, position=position))

    def _report(self, stream: object, programmed: Programmed) -> None:
        now = self._clock.monotonic()
        for link in list(self.links.values()):
            session = link.session
            if session is None or (stream is None and not session.is_in_sync):
                continue
            if stream is None or stream is link:
                self._perform(link, session.programmed(programmed, now))
            if stream is link and session.is_served:
                self._follow(self._dialer.served(link.dialled, now))


def _loaded(disk: Transaction | None) -> PlanStore:
    store = PlanStore()
    if disk is not None:
        with contextlib.suppress(PlanProtocolError):
            store.apply(disk)
    return store
