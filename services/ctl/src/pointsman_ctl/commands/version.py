# SPDX-License-Identifier: Apache-2.0
"""`version` and `completion`."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from pointsman_ctl import console
from pointsman_ctl.errors import PlannerError
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.run import Run, finish, with_output, with_run

_PROGRAM = "pointsmanctl"


@click.command()
@click.option("--client", is_flag=True, help="Only of this command; asks nobody.")
@with_output("text", "json", "yaml")
@with_run
def version(run: Run, shown: Format, client: bool) -> None:
    """Versions of this command and of the nodes' enforcers."""
    data: dict[str, Any] = {"client": package_version("pointsman-ctl")}
    if not client:
        data |= finish(_server_versions(run))
    text = [f"client: {data['client']}"]
    text += [f"enforcers: {count} x {found}" for found, count in data.get("enforcers", {}).items()]
    show_prose(data, text, shown)


async def _server_versions(run: Run) -> dict[str, Any]:
    try:
        async with run.planner() as planner:
            nodes = await planner.nodes()
    except PlannerError as error:
        console.note(f"warning: {error}")
        return {}
    counts = Counter(node.version or "not connected" for node in nodes)
    return {"planner": planner.address, "enforcers": dict(sorted(counts.items()))}


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    source <(pointsmanctl completion bash)
    pointsmanctl completion fish > ~/.config/fish/completions/pointsmanctl.fish
    """
    found = get_completion_class(shell)
    name = Path(sys.argv[0]).name or _PROGRAM
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    program = name if name in (_PROGRAM, "kubectl-pointsman") else _PROGRAM
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    console.say([found(context.find_root().command, {}, program, variable).source()])
