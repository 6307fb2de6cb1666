# SPDX-License-Identifier: Apache-2.0
"""`wait`: until a change is in the kernels."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import click
import grpc

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl import console
from pointsman_ctl.core.node_view import state_word
from pointsman_ctl.core.plain import plain
from pointsman_ctl.core.words import service_name
from pointsman_ctl.errors import PlannerError, UsageError, WaitTimeoutError
from pointsman_ctl.output import Format, data_text
from pointsman_ctl.planner import Planner
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import DurationType

_SHOWN_MAX: Final = 20
_LONGEST_SECONDS: Final = 600
_AGAIN_SECONDS: Final = 0.1
"""Between two looks for a Service that the planner has not read yet."""


@click.command()
@click.argument("targets", nargs=-1, metavar="[svc/NAME]...")
@click.option(
    "--for", "what", type=click.Choice(["converged"]), default="converged", show_default=True, help="The condition."
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Of Services named without.")
@click.option("--all", "everything", is_flag=True, help="Wait for everything that the planner has read by now.")
@click.option("--node", "nodes", multiple=True, help="Only these nodes; may be repeated.")
@click.option("-l", "--selector", default="", help="Only nodes with these labels.")
@click.option("--percent", type=click.IntRange(1, 100), default=100, show_default=True, help="So many of the nodes.")
@click.option(
    "--resource-version",
    type=click.IntRange(1),
    default=None,
    help="metadata.resourceVersion that a write of the Service returned; without it, what the planner has now.",
)
@click.option(
    "--slice-resource-version", type=click.IntRange(1), default=None, help="The same of one of its EndpointSlices."
)
@click.option("--timeout", type=DurationType(), default="30s", show_default=True, help="How long to wait, at most 10m.")
@with_output("text", "json", "yaml")
@with_run
def wait(run: Run, shown: Format, targets: tuple[str, ...], everything: bool, **options: Any) -> None:
    """Wait until a change is in the kernels.

    Until nodes have the Services, as they are now, in their kernels.

    \b
    pointsmanctl wait --for=converged svc/web
    pointsmanctl wait svc/shop/web --resource-version 4711 --percent 90
    pointsmanctl wait --all --timeout 2m

    A Service that the planner has not read yet is waited for too, unless a resource version says which write is meant.
    Ends with status 3 when the time is over first, and says which nodes are behind and why.
    """
    if bool(targets) == everything:
        raise UsageError("name one or more Services, or give --all")
    if options["timeout"] > _LONGEST_SECONDS:
        raise UsageError(f"--timeout: at most 10m, not {options['timeout']}")
    versions = options["resource_version"] or options["slice_resource_version"]
    if versions and len(targets) != 1:
        raise UsageError("--resource-version and --slice-resource-version are about one Service: name it")
    finish(_wait_for_all(run, shown, [_request(target, options) for target in targets or [""]]))


def _request(target: str, options: dict[str, Any]) -> pb.WaitConvergedRequest:
    request = pb.WaitConvergedRequest(
        nodes=pb.NodeSelector(names=options["nodes"], label_selector=options["selector"]),
        percent=options["percent"],
    )
    request.timeout.FromNanoseconds(round(options["timeout"] * 1e9))
    if not target:
        request.now.SetInParent()
        return request
    try:
        request.service.name.CopyFrom(service_name(target, options["namespace"]))
    except ValueError as error:
        raise UsageError(str(error)) from error
    request.service.service_resource_version = options["resource_version"] or 0
    request.service.endpoint_slice_resource_version = options["slice_resource_version"] or 0
    return request


async def _wait_for_all(run: Run, shown: Format, requests: list[pb.WaitConvergedRequest]) -> None:
    late = []
    async with run.planner() as planner:
        for request in requests:
            name = request.service.name
            text = f"svc/{name.namespace}/{name.name}" if request.HasField("service") else "everything"
            console.progress(f"waiting for {text} ...")
            if request.HasField("service") and not _has_version(request.service):
                await _wait_until_known(planner, request)
            seconds = request.timeout.ToNanoseconds() / 1e9
            found = await planner.ask(planner.control.WaitConverged, request, longer_seconds=seconds)
            console.progress("")
            lines = _lines(text, found)
            console.say([data_text({"target": text, **plain(found)}, shown)] if shown.is_data else lines[:1])
            if not found.converged:
                late.append("\n".join(lines))
    if late:
        raise WaitTimeoutError("not in time: " + "\n".join(late))


def _has_version(target: pb.ServiceTarget) -> bool:
    """Whether it says which write is waited for; one that was a deletion leaves no Service behind."""
    return bool(target.service_resource_version or target.endpoint_slice_resource_version)


async def _wait_until_known(planner: Planner, request: pb.WaitConvergedRequest) -> None:
    """Until the planner has read the Service; what that took is off the request's timeout.

    Nodes have nothing of a Service that is misspelt or was created a moment ago, and nothing is what the planner wants
    of them: they would count as converged.

    Raises:
        WaitTimeoutError: it did not appear in time.
    """
    name, started = request.service.name, time.monotonic()
    deadline = started + request.timeout.ToNanoseconds() / 1e9
    while True:
        try:
            await planner.ask(planner.control.GetService, pb.GetServiceRequest(name=name))
        except PlannerError as error:
            if error.status is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            break
        if time.monotonic() + _AGAIN_SECONDS > deadline:
            raise WaitTimeoutError(
                f"not in time: planner {planner.address} has no Service {name.namespace}/{name.name} to program\n"
                "  hint: `pointsmanctl services` lists what there is; for a deletion, give its --resource-version"
            )
        await asyncio.sleep(_AGAIN_SECONDS)
    request.timeout.FromNanoseconds(max(round((deadline - time.monotonic()) * 1e9), 0))


def _lines(text: str, found: pb.WaitConvergedResponse) -> list[str]:
    verdict = "converged" if found.converged else "not converged"
    lines = [f"{text} {verdict}: {found.reached} of {found.nodes} nodes have it"]
    lines += [f"  {node.name}: {state_word(node.state)}: {node.reason}" for node in found.laggards[:_SHOWN_MAX]]
    more = found.nodes - found.reached - min(len(found.laggards), _SHOWN_MAX)
    return [*lines, f"  and {more} more nodes"] if more > 0 else lines
