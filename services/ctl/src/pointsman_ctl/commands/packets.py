# SPDX-License-Identifier: Apache-2.0
"""`explain`: where a packet goes on a node, and why."""

from __future__ import annotations

import click

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl.core.packet_view import explanation
from pointsman_ctl.core.plain import address_text, plain
from pointsman_ctl.core.words import Destination
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import AddressType, DestinationType

_SENDERS = {
    "auto": pb.ExplainPacketRequest.SOURCE_UNSPECIFIED,
    "pod": pb.ExplainPacketRequest.SOURCE_POD,
    "host": pb.ExplainPacketRequest.SOURCE_HOST,
    "outside": pb.ExplainPacketRequest.SOURCE_OUTSIDE,
}


@click.command()
@click.argument("source", type=AddressType(), metavar="FROM")
@click.argument("destination", type=DestinationType(), metavar="ADDRESS:PORT[/PROTOCOL]")
@click.option("--node", required=True, help="The node that handles the packet.")
@click.option(
    "--sender", type=click.Choice(list(_SENDERS)), default="auto", show_default=True,
    help="Who sends it: a pod or a process of the node, or anyone else; auto: by address and the node's settings.",
)  # fmt: skip
@with_output("text", "json", "yaml")
@with_run
def explain(run: Run, shown: Format, source: bytes, destination: Destination, node: str, sender: str) -> None:
    """Where a packet goes on a node, and why.

    The first packet of a connection, that is. The planner answers from the plan that the node's kernel was given, so
    the answer is the packet's own: forwarded to which endpoints with which share, refused, dropped, or no Service's at
    all.
    """
    request = pb.ExplainPacketRequest(
        node_name=node,
        source_address=source,
        destination_address=destination.address,
        destination_port=destination.port,
        protocol=destination.protocol,
        source=_SENDERS[sender],
    )
    finish(_explain(run, shown, request, destination))


async def _explain(run: Run, shown: Format, request: pb.ExplainPacketRequest, destination: Destination) -> None:
    async with run.planner() as planner:
        found = await planner.ask(planner.control.ExplainPacket, request)
    text = list(
        explanation(
            found,
            source=address_text(request.source_address),
            destination=destination.text,
            node=request.node_name,
        )
    )
    show_prose(plain(found), text, shown)
