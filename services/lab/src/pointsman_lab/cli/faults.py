# SPDX-License-Identifier: Apache-2.0
"""`pointsman-lab fault ...`: break things on purpose."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from pointsman_lab.cli.options import Name, run
from pointsman_lab.cluster import Cluster
from pointsman_lab.statedir import DEFAULT_ROOT

faults = typer.Typer(help="Break things on purpose.", no_args_is_help=True)

Resource = Annotated[str, typer.Option(help="Plural of the resource, such as endpointslices; empty: all.")]
Place = Annotated[str, typer.Argument(help="A node, a watcher, a planner, or redis.")]


async def _do(name: str, action: Callable[[Cluster], Awaitable[object]]) -> None:
    async with Cluster.attach(DEFAULT_ROOT, name) as cluster:
        answer = await action(cluster)
        print("done" if answer is None else answer)


@faults.command("drop-watches")
def drop_watches(
    *, resource: Resource = "", abrupt: Annotated[bool, typer.Option("--abrupt")] = False, name: Name = "default"
) -> None:
    """Close open watches, cleanly or as a broken connection."""
    run(_do(name, lambda cluster: cluster.fault("drop-watches", resource=resource, abrupt=abrupt)))


@faults.command("delay-watches")
def delay_watches(
    seconds: Annotated[float, typer.Argument(help="Seconds each event is held back; 0 ends it.")],
    resource: Resource = "",
    name: Name = "default",
) -> None:
    """Hold watch events back."""
    run(_do(name, lambda cluster: cluster.fault("delay-watches", resource=resource, seconds=seconds)))


@faults.command("freeze-watches")
def freeze_watches(resource: Resource = "", name: Name = "default") -> None:
    """Keep watches open but silent."""
    run(_do(name, lambda cluster: cluster.fault("freeze-watches", resource=resource)))


@faults.command("thaw-watches")
def thaw_watches(resource: Resource = "", name: Name = "default") -> None:
    """Let frozen watches go on."""
    run(_do(name, lambda cluster: cluster.fault("thaw-watches", resource=resource)))


@faults.command()
def compact(resource: Resource = "", name: Name = "default") -> None:
    """Forget the event history, so that old resource versions answer 410."""
    run(_do(name, lambda cluster: cluster.fault("compact", resource=resource)))


@faults.command()
def clear(name: Name = "default") -> None:
    """End the API server's faults."""
    run(_do(name, lambda cluster: cluster.clear_faults()))


@faults.command()
def partition(place: Place, name: Name = "default") -> None:
    """Cut a node or a machine of the control plane off the network."""
    run(_do(name, lambda cluster: cluster.partition(place)))


@faults.command()
def heal(place: Place, name: Name = "default") -> None:
    """Connect it again."""
    run(_do(name, lambda cluster: cluster.heal(place)))


@faults.command()
def cut(
    member: Annotated[str, typer.Argument(help="A watcher, a planner, or redis.")],
    peers: Annotated[list[str], typer.Argument(help="Machines or nodes, or control (the API server).")],
    *,
    percent: Annotated[int, typer.Option(help="How many percent of the packets are lost, each way.")] = 100,
    name: Name = "default",
) -> None:
    """Lose the packets between a machine of the control plane and some others."""
    run(_do(name, lambda cluster: cluster.cut(member, *peers, percent=percent)))


@faults.command()
def mend(
    member: Annotated[str, typer.Argument(help="A watcher, a planner, or redis.")], name: Name = "default"
) -> None:
    """End what cut did."""
    run(_do(name, lambda cluster: cluster.mend(member)))


@faults.command("kill-pod")
def kill_pod(
    pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME in default.")], name: Name = "default"
) -> None:
    """Kill a pod's server without grace; its node starts it again."""
    namespace, slash, pod_name = pod.rpartition("/")
    run(_do(name, lambda cluster: cluster.kill_pod(namespace if slash else "default", pod_name)))


@faults.command("signal")
def signal_process(
    process: Annotated[str, typer.Argument(help="A process as in status, such as planner-1 or enforcer-node-1.")],
    signal: Annotated[str, typer.Argument(help="KILL, TERM, STOP, CONT.")] = "KILL",
    *,
    restart: Annotated[bool, typer.Option(help="Whether it comes back after its end.")] = True,
    name: Name = "default",
) -> None:
    """Send a signal to a process."""
    run(_do(name, lambda cluster: cluster.signal(process, signal, restart=restart)))
