# SPDX-License-Identifier: Apache-2.0
"""`pointsman-lab`: start, look at, break and end labs from a shell."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pointsman_lab.cli.faults import faults
from pointsman_lab.cli.options import Name, run
from pointsman_lab.cli.up import stay_up, up_detached
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabUsageError
from pointsman_lab.launch import end_by_pid
from pointsman_lab.net.topology import CONTROL, place_name
from pointsman_lab.settings import LabSettings
from pointsman_lab.statedir import DEFAULT_ROOT, StateDirectory, running_labs

app = typer.Typer(
    help="A Kubernetes cluster on one machine: network namespaces for nodes and pods, and Pointsman itself.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(faults, name="fault")

_SERVICES = "redis,otlp,watcher,planner,enforcer"


@app.command()
def up(
    *,
    manifests: Annotated[list[Path], typer.Option("-f", "--filename", help="Manifest file or directory.")] = [],  # noqa: B006  # typer reads it, nobody writes it
    nodes: Annotated[int, typer.Option(help="Number of nodes.")] = 3,
    zones: Annotated[int, typer.Option(help="Number of zones the nodes take in turn.")] = 2,
    watchers: Annotated[int, typer.Option(help="Number of watchers.")] = 2,
    planners: Annotated[int, typer.Option(help="Number of planners.")] = 3,
    mode: Annotated[str, typer.Option(help="Mode of the enforcers.")] = "nftables",
    services: Annotated[str, typer.Option(help="Parts to start, comma separated, or none.")] = _SERVICES,
    api_port: Annotated[int, typer.Option(help="Port of the API server on the host's loopback; 0: any.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave the lab running; end it with down.")] = False,
    name: Name = "default",
) -> None:
    """Start a lab, apply manifests, and stay until Ctrl-C."""
    wanted = () if services in ("", "none") else tuple(part.strip() for part in services.split(","))
    unknown = set(wanted) - set(_SERVICES.split(","))
    if unknown:
        run(_fail(f"--services: unknown {', '.join(sorted(unknown))}; there are {_SERVICES}, or none"))
    settings = LabSettings(
        name=name,
        nodes=nodes,
        zones=zones,
        watchers=watchers,
        planners=planners,
        mode=mode,
        services=wanted,
        api_port=api_port,
    )
    run((up_detached if detach else stay_up)(settings, manifests))


@app.command()
def down(name: Name = "default") -> None:
    """End a lab that runs elsewhere."""
    run(_down(name))


@app.command()
def status(name: Name = "") -> None:
    """Show the labs that run, their processes and pods."""
    run(_status(name))


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def execute(
    place: Annotated[str, typer.Argument(help="A node, outside, control, or a pod as NAMESPACE/NAME or NAME.")],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.")],
    name: Name = "default",
) -> None:
    """Run a command in the network namespace of a node, pod or client, with this terminal."""
    run(_execute(name, place, command))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ctl(
    arguments: Annotated[list[str], typer.Argument(help="A command of pointsmanctl and its arguments.")],
    place: Annotated[str, typer.Option(help="Where it runs, as for exec.")] = CONTROL,
    name: Name = "default",
) -> None:
    """Run pointsmanctl inside the lab, as its administrator."""
    config = StateDirectory(DEFAULT_ROOT, name).ctl_config
    program = str(Path(sys.executable).with_name("pointsmanctl"))  # the PATH need not lead to this environment
    run(_execute(name, place, ["env", f"POINTSMAN_CONFIG={config}", program, *arguments]))


@app.command()
def logs(
    process: Annotated[str, typer.Argument(help="A process as in status, or a pod as NAMESPACE/NAME.")] = "control",
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow")] = False,
    name: Name = "default",
) -> None:
    """Show the log of a process."""
    run(_logs(name, process, follow=follow))


@app.command()
def trace(
    *,
    trace_id: Annotated[str, typer.Argument(help="A trace id; without, the latest traces.")] = "",
    limit: Annotated[int, typer.Option(help="How many of the latest traces.")] = 1,
    jaeger: Annotated[Path | None, typer.Option(help="Write the traces to this file for Jaeger's JSON upload.")] = None,
    name: Name = "default",
) -> None:
    """Show traces of changes as waterfalls."""
    run(_trace(name, trace_id, limit, jaeger))


@app.command()
def explain(
    node: Annotated[str, typer.Argument(help="The node that handles the packet.")],
    source: Annotated[str, typer.Argument(help="Source address.")],
    destination: Annotated[str, typer.Argument(help="Destination address.")],
    port: Annotated[str, typer.Argument(help="PORT or PORT/PROTOCOL, such as 53/UDP.")],
    name: Name = "default",
) -> None:
    """Say where a packet goes on a node, and why."""
    run(_ask(name, "explain", node, source, destination, port))


@app.command()
def nodes(name: Name = "default") -> None:
    """Say how far each node has come, as the planner knows it: one JSON object a line."""
    run(_ask(name, "nodes"))


async def _ask(name: str, *question: str) -> None:
    async with Cluster.attach(DEFAULT_ROOT, name) as cluster:
        print("\n".join(await cluster.ask_planner(*question)))


async def _fail(message: str) -> None:
    raise LabUsageError(message)


async def _down(name: str) -> None:
    state = StateDirectory(DEFAULT_ROOT, name)
    end_by_pid(state.read().guard_pid)
    print(f"lab {name!r} has ended")


async def _status(name: str) -> None:
    names = [name] if name else running_labs(DEFAULT_ROOT)
    if not names:
        print("no lab is running; start one with: pointsman-lab up")
    for lab in names:
        async with Cluster.attach(DEFAULT_ROOT, lab) as cluster:
            print(f"lab {lab}: export KUBECONFIG={cluster.kubeconfig}")
            for info in (await cluster.processes()).values():
                memory = f"{info.resident_bytes / 1e6:.0f} MB"
                print(f"  {info.name:20} {info.state:8} pid {info.pid or '-':>6}  restarts {info.restarts}  {memory}")
            for pod in await cluster.pods():
                metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase", "Pending")
                where = (pod.get("spec") or {}).get("nodeName", "-")
                print(f"  pod {metadata['namespace']}/{metadata['name']:40} {phase:8} {where}")


async def _execute(name: str, place: str, command: list[str]) -> None:
    lab = StateDirectory(DEFAULT_ROOT, name).read()
    namespaces = Path(f"/proc/{lab.init_pid}/root/run/netns")
    file = _place_file(namespaces, place)
    argv = ["nsenter", "-t", str(lab.init_pid), "-m", "-p", f"--net={file}", "--", *command[command[:1] == ["--"] :]]
    # The command gets Ctrl-C itself; we only pass its status on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = subprocess.run(argv, check=False).returncode  # noqa: ASYNC221  # nothing else runs in this process
    raise SystemExit(code if code >= 0 else 128 - code)


def _place_file(namespaces: Path, place: str) -> Path:
    names = sorted(entry.name for entry in namespaces.iterdir())
    exact = [candidate for candidate in names if candidate == place_name(place)]
    found = exact or [
        candidate for candidate in names if candidate.startswith("pod.") and candidate.endswith(f".{place}")
    ]
    if len(found) != 1:
        shown = ", ".join(entry.removeprefix("pod.").replace(".", "/", 1) for entry in found or names)
        raise LabUsageError(f"{place!r}: {'which of' if found else 'no such place; there are'} {shown}")
    return namespaces / found[0]


async def _logs(name: str, process: str, *, follow: bool) -> None:
    state = StateDirectory(DEFAULT_ROOT, name)
    state.read()
    path = state.logs / f"{place_name(process)}.log"
    if not path.exists():
        known = ", ".join(sorted(entry.stem for entry in state.logs.glob("*.log")))
        raise LabUsageError(f"no log of {process!r}; there are {known}")
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", "200", *(["-F"] if follow else []), str(path)])  # noqa: S606  # no shell wanted


async def _trace(name: str, trace_id: str, limit: int, jaeger: Path | None) -> None:
    async with Cluster.attach(DEFAULT_ROOT, name) as cluster:
        ids = [trace_id] if trace_id else await cluster.find_traces(limit=limit)
        if not ids:
            print("no traces yet; change a Service or scale a Deployment")
        for found in ids:
            print(await cluster.waterfall(found))
        if jaeger is not None:
            await asyncio.to_thread(jaeger.write_bytes, msgspec.json.encode(await cluster.jaeger(*ids)))
            print(f"wrote {jaeger}")


def main() -> None:
    """Runs the command line."""
    app()
