# SPDX-License-Identifier: Apache-2.0
"""All of it together under one seed: which of the things that could happen now happens next, and what must always hold.

    world = World(seed)
    world.play(steps)     anything goes: changes, reordering, delay, loss, crashes, damage
    world.settle()        no more faults; everything must come to agree

Invariants, looked at after each step where they could have been broken:
    at most two transactions of a stream are unacknowledged
    positions, sent and acknowledged, never go back on a stream
    a session says that it has converged only when the kernel has the very bytes of the planner's plan, unless another
    stream has changed them and the news is on its way
    a node removes a service only if the cluster, at a revision that it has been told of, was without it, and before a
    planner has brought the whole plan only those that the planner named
    after `settle`, plan and kernel of every node are those of a planner that knows nothing but the newest state, and
    every node is served by its owner and by nobody else
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from simulation.cluster_log import NODES, STABLE, ClusterLog, cluster_ip
from simulation.damage import damaged, is_transaction
from simulation.link import Link
from simulation.node import Disk, Node, Surroundings
from simulation.planner import PlannerProcess
from simulation.sim_clock import SimClock

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import Change, ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.node_session import WINDOW
from pointsman_planner.core.ownership import Member, candidates
from pointsman_planner.core.planner import Batch, Planner

_SETTLE_SECONDS_MAX = 2000.0
_SETTLE_TURNS_MAX = 20_000
_FAULTS_SHARE = 0.04
_DISKS: tuple[Disk, ...] = ("sound", "sound", "behind", "lost")
_FLUSHES_SHARE = 0.05
_LOST_SHARE = 0.3
_VERIFIED_SHARE = 0.5
_NEVER_ENDING = 3
"""The first of the possible acts are always possible, and bring nothing to an end."""


class InvariantError(AssertionError):
    """Something that must always hold did not; the message says what."""


class World:
    """One run."""

    def __init__(self, seed: int, *, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` hears each step, for a schedule that people can read."""
        self.random = Random(seed)
        self.clock = SimClock()
        self.steps = 0
        self.faults = 0
        self._say = say
        self._numbers = 0
        self._positions: dict[int, tuple[int, int]] = {}
        self.log = ClusterLog(self.random)
        names = [f"p{index}" for index in range(1, 1 + self.random.choice([1, 2, 2, 3]))]
        self.planners = [PlannerProcess(name, self.log, self.clock, say=say) for name in names]
        self.members: dict[str, Member] = {}
        """Who serves, as the store says."""
        self.blocked: set[tuple[str, str]] = set()
        """Nodes that do not reach planners."""
        self.links: list[Link] = []
        surroundings = Surroundings(
            clock=self.clock,
            random=self.random,
            planners=tuple(planner.address for planner in self.planners),
            connect=self._connect,
            on_removal=self._removal,
            say=say,
        )
        self.nodes = [Node(name, surroundings) for name in NODES[: self.random.choice([1, 2, 2, 3])]]
        for node in self.nodes:
            node.begin()

    # -- what may happen ---------------------------------------------------------------------------------------------

    def play(self, steps: int) -> None:
        """Let so many things happen."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """One thing happens."""
        self.steps += 1
        if self.random.random() < _FAULTS_SHARE:
            self._fault()
        else:
            self.random.choice(self._possible())()
        self._check_links()

    def _possible(self) -> list[Callable[[], None]]:
        acts: list[Callable[[], None]] = [self._change, self._wait, self._acknowledge]
        for link in self.links:
            if link.to_node:
                acts += [lambda link=link: self._to_node(link)] * 2  # type: ignore[misc]  # a default binds
            if link.to_planner:
                acts += [lambda link=link: self._to_planner(link)] * 2  # type: ignore[misc]  # a default binds
        for planner in self.planners:
            if planner.is_behind:
                acts.append(lambda planner=planner: self._follow(planner))  # type: ignore[misc]  # a default binds
            acts += [lambda p=planner, each=link: self._write(p, each) for link in planner.writable()]  # type: ignore[misc]  # defaults bind
        for node in self.nodes:
            if node.is_busy:
                acts += [lambda node=node: self._sync(node)] * 2  # type: ignore[misc]  # a default binds
        acts += [lambda p=planner: self._registers(p) for planner in self.planners if self._is_news(planner)]  # type: ignore[misc]  # a default binds
        members = tuple(self.members.values())
        acts += [lambda p=planner: self._hears(p) for planner in self.planners if planner.members != members]  # type: ignore[misc]  # a default binds
        return acts

    def _is_news(self, planner: PlannerProcess) -> bool:
        """Whether the store knows a planner as it is; one that is not in sync does not register."""
        return planner.planner.is_in_sync and self.members.get(planner.name) != planner.member

    def _change(self) -> None:
        self._say(f"revision {self.log.revision + 1}: {self.log.change()}")

    def _wait(self, seconds: float = 0.0) -> None:
        seconds = seconds or self.random.choice([0.01, 0.1, 1.0, 4.0])
        self._say(f"{seconds:g} s pass")
        self.clock.pass_time(seconds)
        for node in self.nodes:
            node.tick()
            if self.random.random() < _FLUSHES_SHARE:
                node.flush_disk()
        for planner in self.planners:
            planner.tick()

    def _acknowledge(self) -> None:
        node = self.random.choice(self.nodes)
        if self.random.random() < _VERIFIED_SHARE:
            self._say(f"{node.name} has read its kernel back")
            node.has_verified()
        else:
            self._say(f"{node.name} has everything on disk")
            node.has_on_disk()

    def _follow(self, planner: PlannerProcess) -> None:
        planner.follow(self.random.randint(1, 4))
        self._say(f"{planner.name} follows to revision {planner.revision}")

    def _registers(self, planner: PlannerProcess) -> None:
        self._say(f"{planner.name} is registered{' as draining' if planner.is_draining else ''}")
        self.members[planner.name] = planner.member

    def _hears(self, planner: PlannerProcess) -> None:
        planner.hear(tuple(self.members.values()))
        asked = planner.move_nodes()
        self._say(f"{planner.name} hears of {len(self.members)} members, and asks {len(asked)} nodes to go")

    def _connect(self, node: Node, address: str) -> Link | None:
        planner = next((each for each in self.planners if each.address == address), None)
        if planner is None:
            return None
        self._numbers += 1
        link = Link(self._numbers, node.name, planner)
        link.is_silent = (node.name, planner.name) in self.blocked
        self.links.append(link)
        return link

    def _write(self, planner: PlannerProcess, link: Link) -> None:
        parts = planner.write(link)
        self._say(f"{planner.name} sends {len(parts)} parts on {link}, at revision {planner.revision}")

    def _to_node(self, link: Link) -> None:
        data = link.to_node.popleft()
        self._say(f"{link}: the node gets {_in_words(pb.StreamNodePlanResponse, data)}")
        self._node(link).receive(link, data)

    def _to_planner(self, link: Link) -> None:
        data = link.to_planner.popleft()
        self._say(f"{link}: the planner gets {_in_words(pb.StreamNodePlanRequest, data)}")
        link.planner.receive(link, data)

    def _sync(self, node: Node) -> None:
        self._say(f"{node.name} programs")
        node.step()

    def _node(self, link: Link) -> Node:
        return next(node for node in self.nodes if node.name == link.node)

    # -- what may go wrong -------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        self.faults += 1
        self.random.choice(
            [
                self._break,
                self._break,
                self._silence,
                self._block,
                self._block,
                self._drain,
                self._drain,
                self._damage,
                self._damage,
                self._restart_planner,
                self._restart_node,
                self._refuse,
                self._refuse,
            ]
        )()

    def _break(self) -> None:
        if self.links:
            link = self.random.choice(self.links)
            self._say(f"FAULT {link} breaks")
            link.break_off(self.random)

    def _silence(self) -> None:
        if self.links:
            link = self.random.choice(self.links)
            self._say(f"FAULT nothing gets through on {link}")
            link.go_silent()

    def _block(self) -> None:
        if self.blocked:
            self._say("FAULT ends: every node reaches every planner")
            self.blocked.clear()
            return
        node, planner = self.random.choice(self.nodes).name, self.random.choice(self.planners).name
        self._say(f"FAULT {node} does not reach {planner}")
        self.blocked.add((node, planner))
        for link in self.links:
            if (link.node, link.planner.name) == (node, planner):
                link.go_silent()

    def _drain(self) -> None:
        planner = self.random.choice(self.planners)
        if planner.is_draining:
            self._say(f"FAULT {planner.name} has drained, ends, and begins anew")
            self.members.pop(planner.name, None)
            planner.start()
        else:
            self._say(f"FAULT {planner.name} drains")
            planner.is_draining = True
            planner.move_nodes()

    def _damage(self) -> None:
        link = self.random.choice(self.links) if self.links else None
        if link is None or not link.to_node:
            return
        index = self.random.randrange(len(link.to_node))
        data = link.to_node[index]
        if data is not None and is_transaction(data) and self.random.random() < _LOST_SHARE:
            self._say(f"FAULT a transaction is lost on {link}")
            del link.to_node[index]
        elif data is not None:
            self._say(f"FAULT a message to the node is damaged on {link}")
            link.to_node[index] = damaged(data, self.random)

    def _restart_planner(self) -> None:
        planner = self.random.choice(self.planners)
        is_sudden = self.random.random() < 0.5
        self._say(f"FAULT {planner.name} {'vanishes' if is_sudden else 'ends'} and begins anew")
        if is_sudden:
            for link in planner.links:
                link.go_silent()
        if self.random.random() < 0.5:
            self.members.pop(planner.name, None)
        planner.start()

    def _restart_node(self) -> None:
        node = self.random.choice(self.nodes)
        draw = self.random.random()
        if draw < 0.3:
            self._say(f"FAULT {node.name} loses power")
            node.lose_power()
        else:
            disk = self.random.choice(_DISKS)
            self._say(f"FAULT the enforcer of {node.name} restarts, its disk is {disk}")
            node.restart(disk)

    def _refuse(self) -> None:
        kernel = self.random.choice(self.nodes).kernel
        if kernel.refused:
            self._say("FAULT ends: the kernel takes everything again")
            kernel.refused.clear()
        else:
            key = self.random.choice(STABLE)
            self._say(f"FAULT a kernel refuses {key}")
            kernel.refused.add(cluster_ip(key))

    # -- what must hold ----------------------------------------------------------------------------------------------

    def _check_links(self) -> None:
        for link in self.links:
            if link.plans is not None:
                self._check_session(link)
        self.links = [link for link in self.links if not (link.is_over and not link.to_node)]

    def _check_session(self, link: Link) -> None:
        session = link.plans
        if session is None:
            return
        if session.in_flight > WINDOW:
            raise InvariantError(f"{link}: {session.in_flight} transactions are unacknowledged")
        position = (session.sent_position.revision, session.acked_position.revision)
        before = self._positions.get(link.number, (0, 0))
        if position[0] < before[0] or position[1] < before[1]:
            raise InvariantError(f"{link}: positions go back, from {before} to {position}")
        self._positions[link.number] = position
        node = self._node(link)
        if list(node.links.values()) != [link] or not session.is_converged:
            return
        is_news_under_way = link.is_disturbed and (link.to_planner or node.is_busy)
        if not is_news_under_way and node.kernel.digest != link.planner.planner.digest(node.name):
            raise InvariantError(f"{link}: converged, says the planner, and the kernel has something else")

    def _removal(self, node: Node, key: ServiceKey) -> None:
        if not any(not self.log.has_service(key, revision) for revision in range(1, node.position_seen + 1)):
            raise InvariantError(f"{node.name} removes {key}, which has always existed")
        if not node.is_confirmed and key not in node.named:
            raise InvariantError(f"{node.name} removes {key} before it knows the whole plan")
        if key in STABLE:
            raise InvariantError(f"{node.name} removes {key}, which is never without endpoints")

    # -- the end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """End all faults and let things run their course.

        Raises:
            InvariantError: they do not come to agree in time.
        """
        self._say("no more faults")
        for node in self.nodes:
            node.kernel.refused.clear()
        self.blocked.clear()
        for planner in self.planners:
            if planner.is_draining:
                self.members.pop(planner.name, None)
                planner.start()
        end = self.clock.monotonic() + _SETTLE_SECONDS_MAX
        for _ in range(_SETTLE_TURNS_MAX):
            self.steps += 1
            acts = self._possible()[_NEVER_ENDING:]
            if acts:
                self.random.choice(acts)()
            elif self._is_settled() or self.clock.monotonic() > end:
                break
            else:
                self._wait(4.0)
            self._check_links()
        self._check_agreement()

    def _is_settled(self) -> bool:
        """Whether each node is with its owner alone, and the owner knows that it has everything."""
        for node in self.nodes:
            owner = candidates(node.name, self.members.values())[0].planner_id
            for planner in self.planners:
                session = planner.session_of(node.name)
                if (session is not None) != (planner.name == owner):
                    return False
                if session is not None and (session.failures or not session.is_converged):
                    return False
        return True

    def _check_agreement(self) -> None:
        judge = Planner()
        objects = self.log.objects_at(self.log.revision)
        changes = tuple(Change(key=key, value=value) for key, value in objects.items())
        judge.apply(Batch(changes=changes, position=ClusterPosition(epoch="log", revision=self.log.revision)))
        for node in self.nodes:
            wanted = judge.index.digest_once(node.name)
            if node.store.digest != wanted or node.kernel.digest != wanted:
                raise InvariantError(
                    f"{node.name}: the plan should have digest {wanted:016x}, the node holds {node.store.digest:016x}, "
                    f"its kernel has {node.kernel.digest:016x}: {sorted(node.kernel.services)}"
                )
        if not self._is_settled():
            served = {planner.name: [link.node for link in planner.links] for planner in self.planners}
            raise InvariantError(f"everybody has everything, and some planner does not know it: {served}")


def _in_words(kind: type[pb.StreamNodePlanResponse | pb.StreamNodePlanRequest], data: bytes | None) -> str:
    if data is None:
        return "the end"
    message = kind.FromString(data)
    [(field, value)] = message.ListFields()
    if field.name == "transaction":
        sizes = f"{len(value.updates)} updates, {len(value.removals)} removals"
        return f"transaction {value.nonce} (revision {value.position.revision}, {sizes})"
    if field.name == "ack":
        return f"ack {value.nonce}"
    return field.name
