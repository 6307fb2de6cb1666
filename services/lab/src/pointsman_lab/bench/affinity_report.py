# SPDX-License-Identifier: Apache-2.0
"""Session affinity over several nodes: who was moved, and who met different pods. Pure but for `write`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    """One connection: which client, through which node, and the pod that answered; empty = none did."""

    client: str
    node: str
    pod: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that happened, and what clients met after it.

    Attributes:
        clients: how many connected.
        connections: how many connections they made, through several nodes.
        moved: clients that met another pod than the one they had, which was still there.
        wrong: clients that met different pods on different nodes, or no pod.
        note: what else is worth knowing, for people.
    """

    name: str
    clients: int
    connections: int
    moved: int
    wrong: int
    note: str = ""


def judge(
    name: str, seen: Iterable[Seen], *, had: Mapping[str, str], gone: Collection[str] = (), note: str = ""
) -> Step:
    """What a step came to. `had`: the pod that each client had before; `gone`: pods that are no endpoints any more."""
    met: dict[str, set[str]] = {}
    connections = 0
    for client, _, pod in seen:
        connections += 1
        met.setdefault(client, set()).add(pod)
    moved = wrong = 0
    for client, pods in met.items():
        before = had.get(client, "")
        keeps = bool(before) and before not in gone
        moved += keeps and pods != {before}
        wrong += len(pods) > 1 or bool(pods & {"", *gone})
    return Step(name=name, clients=len(met), connections=connections, moved=moved, wrong=wrong, note=note)


def summary(steps: Sequence[Step], *, nodes: int) -> str:
    """The last line."""
    clients, connections = max(step.clients for step in steps), sum(step.connections for step in steps)
    moved, wrong = sum(step.moved for step in steps), sum(step.wrong for step in steps)
    return f"affinity: {nodes} nodes, {clients} clients, {connections} connections, {moved} moved, {wrong} wrong"


def is_good(steps: Sequence[Step]) -> bool:
    """Whether nobody was moved and nobody met different pods."""
    return not any(step.moved or step.wrong for step in steps)


def markdown(steps: Sequence[Step], *, nodes: int) -> str:
    """The table for people."""
    lines = [
        "# Session affinity over several nodes",
        "",
        "Clients outside connect to a node port through each node in turn. *Moved* met another pod than the one they",
        "had, which was still there; *wrong* met different pods on different nodes, or none.",
        "",
        "| what happened | clients | connections | moved | wrong | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {step.name} | {step.clients} | {step.connections} | {step.moved} | {step.wrong} | {step.note} |"
            for step in steps
        ),
        "",
        summary(steps, nodes=nodes),
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path, steps: Sequence[Step], *, nodes: int) -> None:
    """affinity.json and affinity.md."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {"nodes": nodes, "steps": [asdict(step) for step in steps]}
    (folder / "affinity.json").write_text(json.dumps(body, indent=2) + "\n")
    (folder / "affinity.md").write_text(markdown(steps, nodes=nodes))
