# SPDX-License-Identifier: Apache-2.0
"""Asks a planner's control API and prints the answer: the lab's window into what the planner knows.

    python -m pointsman_lab.inspect ADDRESS explain NODE SOURCE DESTINATION PORT[/PROTOCOL]
    python -m pointsman_lab.inspect ADDRESS nodes

Runs inside the lab's control namespace, where the planner can be reached. `nodes` prints one JSON object a line, for
programs; `explain` prints prose, for people.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from collections.abc import Sequence

import grpc

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1.control_service_pb2_grpc import ControlServiceStub
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2

_TIMEOUT_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one question; 1 when the planner refuses or cannot be reached, 2 when the question is malformed."""
    parsed = _parser().parse_args(arguments)
    try:
        _ask(parsed)
    except grpc.RpcError as error:
        print(f"planner at {parsed.planner}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(str(error), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.inspect", description=__doc__)
    parser.add_argument("planner", help="HOST:PORT of a planner")
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("nodes", help="how far each node has come")
    explain = questions.add_parser("explain", help="where a packet goes, and why")
    explain.add_argument("node")
    explain.add_argument("source")
    explain.add_argument("destination")
    explain.add_argument("port", help="PORT or PORT/PROTOCOL, such as 53/UDP")
    return parser


def _ask(parsed: argparse.Namespace) -> None:
    with grpc.insecure_channel(parsed.planner) as channel:
        stub = ControlServiceStub(channel)
        if parsed.question == "nodes":
            _print_nodes(stub)
        else:
            _print_explanation(stub, parsed)


def _print_nodes(stub: ControlServiceStub) -> None:
    page_token = ""
    while True:
        request = pb.ListNodesRequest(page_token=page_token)
        answer = stub.ListNodes(request, timeout=_TIMEOUT_SECONDS)
        for node in answer.nodes:
            print(json.dumps(_node(node)))
        page_token = answer.next_page_token
        if not page_token:
            return


def _node(node: pb.NodeStatus) -> dict[str, object]:
    return {
        "name": node.name,
        "state": pb.NodeStatus.State.Name(node.state).removeprefix("STATE_").lower(),
        "revision": node.programmed.revision,
        "pending": node.pending_services,
        "failures": [
            f"{failure.service.namespace}/{failure.service.name}: {_stage(failure)}: {failure.message}"
            for failure in node.failures
        ],
        "digests_equal": node.desired_digest == node.programmed_digest,
        "drift": _drift(node.drift) if node.HasField("drift") else None,
    }


def _stage(failure: plan_service_pb2.ServiceFailure) -> str:
    return plan_service_pb2.ServiceFailure.Stage.Name(failure.stage).removeprefix("STAGE_").lower()


def _drift(drift: plan_service_pb2.DriftReport) -> dict[str, object]:
    """The newest repair after somebody else changed the node's kernel objects."""
    return {
        "repairs": drift.repairs,
        "at": drift.repaired_at.ToJsonString(),
        "seconds": round(drift.duration.ToNanoseconds() / 1e9, 4),
        "touched": list(drift.kinds),
        "objects": drift.objects,
        "process": drift.process,
        "process_id": drift.process_id,
    }


def _print_explanation(stub: ControlServiceStub, parsed: argparse.Namespace) -> None:
    port, _, protocol = parsed.port.partition("/")
    if not port.isdigit():
        raise ValueError(f"{parsed.port!r} is not a port such as 80 or 53/UDP")
    request = pb.ExplainPacketRequest(
        node_name=parsed.node,
        source_address=ipaddress.ip_address(parsed.source).packed,
        destination_address=ipaddress.ip_address(parsed.destination).packed,
        destination_port=int(port),
        protocol=types_pb2.Protocol.Value(f"PROTOCOL_{(protocol or 'TCP').upper()}"),
    )
    answer = stub.ExplainPacket(request, timeout=_TIMEOUT_SECONDS)
    outcome = pb.ExplainPacketResponse.Outcome.Name(answer.outcome).removeprefix("OUTCOME_")
    print(f"{parsed.source} -> {parsed.destination}:{parsed.port} on {parsed.node}: {outcome}")
    for step in answer.steps:
        print(f"  - {step}")
    for endpoint in answer.endpoints:
        masquerade = ", source becomes the node's" if endpoint.masquerade else ""
        print(f"  -> {ipaddress.ip_address(endpoint.address)} port {endpoint.port}{masquerade}")
    for exclusion in answer.exclusions:
        print(f"  not {ipaddress.ip_address(exclusion.address)} port {exclusion.port}: {exclusion.reason}")


if __name__ == "__main__":
    sys.exit(main())
