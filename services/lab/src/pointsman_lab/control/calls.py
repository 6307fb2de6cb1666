# SPDX-License-Identifier: Apache-2.0
"""The host's side of the control process: commands in places, processes, faults of the network, traces."""

from collections.abc import Sequence
from typing import Any

import msgspec

from pointsman_lab.control.methods import ExecResult
from pointsman_lab.errors import RemoteError
from pointsman_lab.otlp.store import Span
from pointsman_lab.rpc import RpcClient
from pointsman_lab.supervise.process import ProcessInfo


class ControlCalls:
    """What a Cluster offers by its control process."""

    def __init__(self, control: RpcClient) -> None:
        """Takes the connection to the control process."""
        self._control = control

    async def execute(
        self, place: str, argv: Sequence[str], *, text: str = "", timeout_seconds: float = 30.0
    ) -> ExecResult:
        """Runs a command in a place, with `text` as its input."""
        answer = await self._control.call(
            "execute", place=place, argv=list(argv), text=text, timeout_seconds=timeout_seconds
        )
        return msgspec.convert(answer, ExecResult)

    async def node_exec(self, node: str, *argv: str) -> str:
        """Runs a command on a node and answers with its output.

        Raises:
            RemoteError: it failed; the message quotes it.
        """
        result = await self.execute(node, argv)
        if result.code != 0:
            raise RemoteError(f"{' '.join(argv)} on {node} ended with {result.code}: {result.stderr.strip()}")
        return result.stdout

    async def ask_planner(self, *question: str, planner: str = "") -> list[str]:
        """The lines with which a planner answers a question of `pointsman_lab.inspect`; any planner when none is named.

        Raises:
            RemoteError: none can be reached, or it refuses.
        """
        answer = await self._control.call("ask_planner", question=list(question), planner=planner)
        return [str(line) for line in answer]

    async def processes(self) -> dict[str, ProcessInfo]:
        """The lab's processes by name."""
        infos = msgspec.convert(await self._control.call("processes"), list[ProcessInfo])
        return {info.name: info for info in infos}

    async def signal(self, process: str, name: str, *, restart: bool = True) -> None:
        """Sends a signal (`KILL`, `TERM`, `STOP`, `CONT`); without `restart` the process stays away."""
        await self._control.call("process_signal", name=process, signal=name, restart=restart)

    async def start_process(self, process: str) -> None:
        """Starts a process that ended and waits until it is ready."""
        await self._control.call("process_start", name=process)

    async def stop_process(self, process: str) -> None:
        """Ends a process in order, for good."""
        await self._control.call("process_stop", name=process)

    async def wait_process_ready(self, process: str) -> float:
        """Waits until a process is ready; answers with the seconds it took."""
        return float(await self._control.call("process_wait_ready", name=process))

    async def process_log(self, process: str) -> str:
        """The end of a process's log."""
        return str(await self._control.call("process_log", name=process))

    async def partition(self, place: str) -> None:
        """Cuts a node or a machine of the control plane off: packets from and to it vanish."""
        await self._control.call("partition", place=place)

    async def heal(self, place: str) -> None:
        """Connects a place again."""
        await self._control.call("heal", place=place)

    async def cut(self, member: str, *peers: str, percent: int = 100) -> None:
        """A machine of the control plane loses so many percent of the packets from and to the peers, each way.

        A peer is a machine, a node, or `control`, where the API server is. Replaces what was cut there before.
        """
        await self._control.call("cut", member=member, peers=list(peers), percent=percent)

    async def mend(self, member: str) -> None:
        """Ends what `cut` did."""
        await self.cut(member)

    async def kill_pod(self, namespace: str, name: str) -> None:
        """Kills a pod's server without grace; its node starts it again."""
        await self._control.call("kill_pod", namespace=namespace, name=name)

    async def route_outside(self, address: str, *via: str) -> None:
        """Sends outside clients to an address over the given nodes."""
        await self._control.call("route_outside", address=address, via=list(via))

    async def find_traces(self, *, attribute: str = "", value: str = "", name: str = "", limit: int = 20) -> list[str]:
        """Ids of the latest traces that hold a span of that name with that attribute value."""
        answer = await self._control.call("trace_find", attribute=attribute, value=value, name=name, limit=limit)
        return [str(trace_id) for trace_id in answer]

    async def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, by start."""
        return msgspec.convert(await self._control.call("trace_spans", trace_id=trace_id), list[Span])

    async def waterfall(self, trace_id: str) -> str:
        """A trace as text."""
        return str(await self._control.call("trace_waterfall", trace_id=trace_id))

    async def jaeger(self, *trace_ids: str) -> dict[str, Any]:
        """Traces as a document Jaeger's user interface loads."""
        return dict(await self._control.call("trace_jaeger", trace_ids=list(trace_ids)))
