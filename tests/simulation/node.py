# SPDX-License-Identifier: Apache-2.0
"""One simulated node: the real PlanStore, PlanSession and Reconciler over a kernel of bytes, and up to two streams.

What is played here is the shell: which stream a report goes to, when a sync runs, make before break. A sync is a
coroutine that is resumed by hand, so anything may happen between its halves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from simulation.byte_kernel import ByteDataplane, Kernel
from simulation.link import Link
from simulation.sim_clock import SimClock

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.plan_session import Action, Commit, PlanSession, Programmed, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction
from pointsman_enforcer.dataplane.reconciler import Reconciler, ReconcilerLimits
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.names import ServiceKey

_RETRY_SECONDS = 1.0


class Node:
    """A machine with a kernel and a disk, and the enforcer that runs on it now."""

    def __init__(
        self, name: str, clock: SimClock, *, on_removal: Callable[[Node, ServiceKey], None], say: Callable[[str], None]
    ) -> None:
        self.name = name
        self.kernel = Kernel()
        self.links: dict[int, Link] = {}
        """Open streams by number, the oldest first; a second one is a move."""
        self.protocol_errors = 0
        self._clock = clock
        self._on_removal = on_removal
        self._say = say
        self._disk: Transaction | None = None
        self.start(PlanStore())

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self, store: PlanStore) -> None:
        """The enforcer begins with this plan; what ran before is gone."""
        self.store = store
        self._reconciler = Reconciler(
            dataplane=ByteDataplane(self.kernel, on_removal=lambda key: self._on_removal(self, key)),
            store=store,
            clock=self._clock,
            on_synced=self._synced,
            # Reading back is bounded by real time in the field; here every refusal may look at once.
            limits=ReconcilerLimits(observe_interval_seconds=0.5),
        )
        self._owner = 0
        """Number of the stream that brought a transaction last."""
        self._sync: Coroutine[Any, Any, None] | None = None
        self.wants_sync = store.facts is not None
        self._retry_at = float("inf")
        self.position_seen = store.position.revision
        self.is_confirmed = False
        """Whether a planner has brought a whole plan since the start."""
        self.named: set[ServiceKey] = set()
        """Services that planners have removed since the start."""

    def restart(self, disk: Literal["sound", "lost", "behind"]) -> None:
        """The process ends and begins again; the kernel stays."""
        self._drop_everything()
        now = self.store.snapshot() if self.store.facts is not None else None
        self.start(_loaded({"sound": now, "lost": None, "behind": self._disk}[disk]))

    def lose_power(self) -> None:
        """The kernel is empty, and the disk is behind."""
        self._drop_everything()
        self.kernel.held.clear()
        self.start(_loaded(self._disk))

    def flush_disk(self) -> None:
        """What is held now survives a power loss."""
        if self.store.facts is not None:
            self._disk = self.store.snapshot()

    def _drop_everything(self) -> None:
        if self._sync is not None:
            self._sync.close()
        for link in list(self.links.values()):
            self.leave(link)

    # -- streams -----------------------------------------------------------------------------------------------------

    def dial(self, link: Link) -> None:
        """Open a stream."""
        hello = pb.Hello(node_name=self.name, instance_id="sim")
        link.session = PlanSession(hello=hello, store=self.store, now=self._clock.monotonic())
        self.links[link.number] = link
        self._perform(link, link.session.open(self._clock.monotonic()))

    def leave(self, link: Link) -> None:
        """Close a stream."""
        self.links.pop(link.number, None)
        link.node_closed()

    def receive(self, link: Link, data: bytes | None) -> None:
        """A message of the planner, or the end of the stream."""
        if link.session is None:
            return
        if data is None:
            self._ended(link)
            return
        message = pb.StreamNodePlanResponse.FromString(data)
        if link.number < self._owner and message.HasField("transaction"):
            return
        try:
            self._perform(link, link.session.receive(message, self._clock.monotonic()))
        except PlanProtocolError as error:
            self._fail(link, error)

    def tick(self) -> None:
        """Time has passed."""
        now = self._clock.monotonic()
        for link in list(self.links.values()):
            if link.session is not None and link.session.next_tick() <= now:
                try:
                    self._perform(link, link.session.tick(now))
                except PlanProtocolError as error:
                    self._fail(link, error)
        if now >= self._retry_at:
            self._retry_at, self.wants_sync = float("inf"), True

    def next_tick(self) -> float:
        """When `tick` has something to do."""
        times = [link.session.next_tick() for link in self.links.values() if link.session is not None]
        return min([*times, self._retry_at])

    def _fail(self, link: Link, error: PlanProtocolError) -> None:
        self._say(f"{self.name} gives up {link}: {error}")
        self.protocol_errors += "silent" not in str(error)
        self._ended(link)

    def _ended(self, link: Link) -> None:
        """A stream is over. What it brought is not what an older one was promised: that one is of no use any more."""
        older = [each for each in self.links.values() if each.number < link.number == self._owner]
        for each in (link, *older):
            self.leave(each)

    def _perform(self, link: Link, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                link.send_to_planner(action.message.SerializeToString())
            elif isinstance(action, Commit):
                # From its first transaction on, the newest stream alone says what the plan is.
                self._owner = link.number
                now = self._clock.monotonic()
                self.is_confirmed = self.is_confirmed or action.in_sync
                self.named |= {change.key for change in action.changes if not change.new_digest}
                self._reconciler.commit(action, stream=link, received_at=now, received_ns=0)
                self.wants_sync = True
                self.position_seen = max(self.position_seen, action.transaction.position.revision)

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
        link = pending.stream
        if link is None:
            link = next((each for each in self.links.values() if each.session and each.session.is_in_sync), None)
        if not isinstance(link, Link) or link.number not in self.links or link.session is None:
            return
        self._perform(link, link.session.programmed(programmed, self._clock.monotonic()))
        if link.session.is_in_sync:
            # Make before break: the newest stream that serves is the one.
            for older in [each for each in self.links.values() if each.number < link.number]:
                self._say(f"{self.name} has moved to {link} and closes {older}")
                self.leave(older)


def _loaded(disk: Transaction | None) -> PlanStore:
    store = PlanStore()
    if disk is not None:
        with contextlib.suppress(PlanProtocolError):
            store.apply(disk)
    return store
