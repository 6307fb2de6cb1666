# SPDX-License-Identifier: Apache-2.0
"""One stream on its way: two queues, each in order, none in step with anything else.

A stream that breaks loses the end of what was on its way, in each direction, and each side learns of it in its own
time; one that goes silent loses everything and tells nobody.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.planner import PlannerProcess

    from pointsman_enforcer.core.plan_session import PlanSession
    from pointsman_planner.core.node_session import NodeSession


class Link:
    """A stream of one node to one planner. None in a queue is its end."""

    def __init__(self, number: int, node: str, planner: PlannerProcess) -> None:
        self.number = number
        self.dialled = 0
        """The node's own number of it."""
        self.node = node
        self.planner = planner
        self.session: PlanSession | None = None
        """The node's side, while the node holds it open."""
        self.plans: NodeSession | None = None
        """The planner's side, from hello to its end."""
        self.to_node: deque[bytes | None] = deque()
        self.to_planner: deque[bytes | None] = deque()
        self.is_silent = False
        self.is_refused = False
        """The planner's side is over: what comes goes nowhere."""
        self.newest = 0
        """The last transaction that came."""
        self.is_disturbed = False
        """Another stream changed the node's plan during the life of this one."""
        self.opened_at = self.heard_at = self.sent_at = 0.0
        """By the planner."""
        self.asked_at: float | None = None
        """When the planner asked the node to go elsewhere."""

    def __str__(self) -> str:
        """For schedules."""
        return f"stream {self.number} ({self.node} - {self.planner.name})"

    def send_to_planner(self, data: bytes | None) -> None:
        """From the node."""
        if not self.is_silent and not self.is_refused:
            self.to_planner.append(data)

    def send_to_node(self, data: bytes | None) -> None:
        """From the planner."""
        if not self.is_silent and self.session is not None:
            self.to_node.append(data)

    def node_closed(self) -> None:
        """The node is done with it; the planner will hear of that unless nothing gets through."""
        self.session = None
        self.to_node.clear()
        self.send_to_planner(None)

    def planner_closed(self) -> None:
        """The planner is done with it."""
        self.plans, self.is_refused = None, True
        self.to_planner.clear()
        self.send_to_node(None)

    def break_off(self, random: Random) -> None:
        """The connection breaks: each direction loses what it had not delivered from some point on."""
        for queue in (self.to_node, self.to_planner):
            for _ in range(random.randint(0, len(queue))):
                queue.pop()
            queue.append(None)
        self.is_silent = True

    def go_silent(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self.to_node.clear()
        self.to_planner.clear()
        self.is_silent = True

    @property
    def is_over(self) -> bool:
        """Whether both sides are done."""
        return self.session is None and self.plans is None and not self.to_planner
