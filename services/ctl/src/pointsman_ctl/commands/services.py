# SPDX-License-Identifier: Apache-2.0
"""`services` and `endpoints`: what the cluster offers, and what becomes of it on a node."""

from __future__ import annotations

import click

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1.types_pb2 import NamespacedName
from pointsman_ctl import console
from pointsman_ctl.core.plain import plain
from pointsman_ctl.core.service_view import ENDPOINT_COLUMNS, SERVICE_COLUMNS, endpoint_rows, service_data
from pointsman_ctl.output import Format, View, data_text, show
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import ServiceType


@click.command()
@click.option("-n", "--namespace", default="", help="Only this namespace; without it, all.")
@click.option("-l", "--selector", default="", help="Only Services with these labels, as in kubectl.")
@with_output()
@with_run
def services(run: Run, shown: Format, namespace: str, selector: str) -> None:
    """Services: addresses, ready endpoints, conflicts with others."""
    finish(_services(run, shown, namespace, selector))


@click.command()
@click.argument("service", type=ServiceType())
@click.option("--node", default="", help="Whose view; without it, a node without local endpoints and without zone.")
@with_output()
@with_run
def endpoints(run: Run, shown: Format, service: NamespacedName, node: str) -> None:
    """Every endpoint of a Service, and why it is not used.

    SERVICE is NAME, NAMESPACE/NAME or svc/NAME. USED names the sets an endpoint is in: Cluster for traffic with traffic
    policy Cluster, Local for traffic with policy Local.
    """
    finish(_endpoints(run, shown, service, node))


async def _services(run: Run, shown: Format, namespace: str, selector: str) -> None:
    async with run.planner() as planner:
        found = await planner.services(namespace, selector)
    view = View(
        rows=found,
        columns=SERVICE_COLUMNS,
        name=lambda each: f"svc/{each.service.name.namespace}/{each.service.name.name}",
        data=service_data,
        none="no Services",
    )
    show(view, shown)


async def _endpoints(run: Run, shown: Format, service: NamespacedName, node: str) -> None:
    async with run.planner() as planner:
        answer = await planner.ask(
            planner.control.GetEndpoints, pb.GetEndpointsRequest(service=service, node_name=node)
        )
    if shown.is_data:
        console.say([data_text(plain(answer), shown)])
        return
    view = View(
        rows=list(endpoint_rows(answer.endpoints)),
        columns=ENDPOINT_COLUMNS,
        name=lambda row: row.text,
        data=lambda row: row.text,
        none=f"{service.namespace}/{service.name} has no endpoints",
    )
    show(view, shown)
