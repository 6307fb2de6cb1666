# SPDX-License-Identifier: Apache-2.0
"""Asks a planner's control API and prints the answer: a window into what the planner knows.

    python -m pointsman_lab.inspect [--tls CERT KEY CA] ADDRESS explain NODE SOURCE DESTINATION PORT[/PROTOCOL]
    python -m pointsman_lab.inspect [--tls CERT KEY CA] ADDRESS nodes
    python -m pointsman_lab.inspect [--tls CERT KEY CA] ADDRESS plan NODE
    python -m pointsman_lab.inspect [--tls CERT KEY CA] ADDRESS endpoints NAMESPACE/SERVICE NODE
    python -m pointsman_lab.inspect [--tls CERT KEY CA] ADDRESS wait NAMESPACE/SERVICE SECONDS

`nodes` prints one JSON object a line, `plan` a GetNodePlanResponse as JSON, for programs; the others print prose, for
people.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf import json_format

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1.control_service_pb2_grpc import ControlServiceStub
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_lab.pki import Identity, channel_credentials

if TYPE_CHECKING:
    from pointsman.control.v1.control_service_pb2_grpc import ControlServiceAsyncStub

_TIMEOUT_SECONDS = 5.0


async def answer(channel: grpc.aio.Channel, question: Sequence[str]) -> list[str]:
    """The lines that answer a question, given as the words behind ADDRESS on the command line.

    Raises:
        AioRpcError: the planner refuses or cannot be reached.
        ValueError: the question is malformed.
    """
    parser = argparse.ArgumentParser(exit_on_error=False)
    _add_questions(parser)
    try:
        return await _ask(channel, parser.parse_args(question))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one question; 1 when the planner refuses or cannot be reached, 2 when the question is malformed."""
    parser = argparse.ArgumentParser(
        prog="python -m pointsman_lab.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tls", nargs=3, type=Path, metavar=("CERT", "KEY", "CA"), help="PEM files; else plaintext")
    parser.add_argument("planner", help="HOST:PORT of a planner")
    _add_questions(parser)
    parsed = parser.parse_args(arguments)
    try:
        print("\n".join(asyncio.run(_dial_and_ask(parsed))))
    except grpc.aio.AioRpcError as error:
        print(f"planner at {parsed.planner}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(str(error), file=sys.stderr)
        return 2
    return 0


def _add_questions(parser: argparse.ArgumentParser) -> None:
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("nodes", help="how far each node has come")
    plan = questions.add_parser("plan", help="everything a node is to do")
    plan.add_argument("node")
    endpoints = questions.add_parser("endpoints", help="what becomes of each endpoint of a Service on a node")
    endpoints.add_argument("service", help="NAMESPACE/NAME")
    endpoints.add_argument("node")
    wait = questions.add_parser("wait", help="wait until every node has a Service as it is now, and say who has not")
    wait.add_argument("service", help="NAMESPACE/NAME")
    wait.add_argument("seconds")
    explain = questions.add_parser("explain", help="where a packet goes, and why")
    explain.add_argument("node")
    explain.add_argument("source")
    explain.add_argument("destination")
    explain.add_argument("port", help="PORT or PORT/PROTOCOL, such as 53/UDP")


async def _dial_and_ask(parsed: argparse.Namespace) -> list[str]:
    if parsed.tls is None:
        channel = grpc.aio.insecure_channel(parsed.planner)
    else:
        certificate, key, ca = parsed.tls
        identity = Identity(certificate=certificate, key=key, ca=ca)
        channel = grpc.aio.secure_channel(parsed.planner, channel_credentials(identity))
    async with channel:
        return await _ask(channel, parsed)


async def _ask(channel: grpc.aio.Channel, parsed: argparse.Namespace) -> list[str]:
    stub = ControlServiceStub(channel)
    if parsed.question == "nodes":
        return [json.dumps(_node(node)) async for node in _nodes(stub)]
    if parsed.question == "plan":
        return [json_format.MessageToJson(await _plan(stub, parsed.node), indent=None)]
    if parsed.question == "endpoints":
        return list(_fates(await stub.GetEndpoints(_endpoints_request(parsed), timeout=_TIMEOUT_SECONDS)))
    if parsed.question == "wait":
        answer = await stub.WaitConverged(_wait_request(parsed), timeout=_seconds(parsed.seconds) + _TIMEOUT_SECONDS)
        return list(_standing(answer))
    return list(_explanation(parsed, await _explain(stub, parsed)))


def _service_name(text: str) -> types_pb2.NamespacedName:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise ValueError(f"{text!r} is not NAMESPACE/NAME")
    return types_pb2.NamespacedName(namespace=namespace, name=name)


def _endpoints_request(parsed: argparse.Namespace) -> pb.GetEndpointsRequest:
    return pb.GetEndpointsRequest(service=_service_name(parsed.service), node_name=parsed.node)


def _wait_request(parsed: argparse.Namespace) -> pb.WaitConvergedRequest:
    request = pb.WaitConvergedRequest(service=pb.ServiceTarget(name=_service_name(parsed.service)))
    request.timeout.FromNanoseconds(round(_seconds(parsed.seconds) * 1e9))
    return request


def _seconds(text: str) -> float:
    if not text.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is not a number of seconds")
    return float(text)


def _standing(answer: pb.WaitConvergedResponse) -> Iterator[str]:
    yield f"{answer.reached} of {answer.nodes} nodes have it"
    for node in answer.laggards:
        state = pb.NodeStatus.State.Name(node.state).removeprefix("STATE_").lower()
        yield f"  {node.name} {state}: {node.reason}"


def _fates(answer: pb.GetEndpointsResponse) -> Iterator[str]:
    for port in answer.endpoints.ports:
        protocol = types_pb2.Protocol.Name(port.protocol).removeprefix("PROTOCOL_")
        yield f"port {port.name or '(unnamed)'} {port.port}/{protocol}"
        for endpoint in port.endpoints:
            fate = [f"in {_set(each)}" for each in endpoint.sets]
            fate += [f"not in {_set(each.set)}: {each.reason}" for each in endpoint.absences]
            yield f"  {ipaddress.ip_address(endpoint.facts.address)} port {endpoint.port}: {'; '.join(fate)}"
    for endpoint in answer.endpoints.unused:
        reason = "; ".join(each.reason for each in endpoint.absences)
        yield f"unused {ipaddress.ip_address(endpoint.facts.address)} port {endpoint.port}: {reason}"


def _set(number: pb.EndpointState.Set.ValueType) -> str:
    return pb.EndpointState.Set.Name(number).removeprefix("SET_").lower()


async def _nodes(stub: ControlServiceAsyncStub) -> AsyncIterator[pb.NodeStatus]:
    page_token = ""
    while True:
        page = await stub.ListNodes(pb.ListNodesRequest(page_token=page_token), timeout=_TIMEOUT_SECONDS)
        for node in page.nodes:
            yield node
        page_token = page.next_page_token
        if not page_token:
            return


async def _plan(stub: ControlServiceAsyncStub, node: str) -> pb.GetNodePlanResponse:
    """All pages as one; each must speak of the same plan."""
    whole = pb.GetNodePlanResponse()
    while True:
        request = pb.GetNodePlanRequest(node_name=node, page_token=whole.next_page_token)
        page = await stub.GetNodePlan(request, timeout=_TIMEOUT_SECONDS)
        if whole.services and whole.digest != page.digest:
            raise ValueError(f"the plan of {node} changed while it was read; ask again")
        whole.ClearField("next_page_token")
        whole.MergeFrom(page)
        if not page.next_page_token:
            return whole


def _node(node: pb.NodeStatus) -> dict[str, object]:
    return {
        "name": node.name,
        "state": pb.NodeStatus.State.Name(node.state).removeprefix("STATE_").lower(),
        "reason": node.reason,
        "since": node.since.ToJsonString() if node.HasField("since") else None,
        "planner": node.planner_id,
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


async def _explain(stub: ControlServiceAsyncStub, parsed: argparse.Namespace) -> pb.ExplainPacketResponse:
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
    return await stub.ExplainPacket(request, timeout=_TIMEOUT_SECONDS)


def _explanation(parsed: argparse.Namespace, found: pb.ExplainPacketResponse) -> Iterator[str]:
    outcome = pb.ExplainPacketResponse.Outcome.Name(found.outcome).removeprefix("OUTCOME_")
    yield f"{parsed.source} -> {parsed.destination}:{parsed.port} on {parsed.node}: {outcome}"
    for step in found.steps:
        yield f"  - {step}"
    for endpoint in found.endpoints:
        masquerade = ", source becomes the node's" if endpoint.masquerade else ""
        yield f"  -> {ipaddress.ip_address(endpoint.address)} port {endpoint.port}{masquerade}"
    for exclusion in found.exclusions:
        yield f"  not {ipaddress.ip_address(exclusion.address)} port {exclusion.port}: {exclusion.reason}"


if __name__ == "__main__":
    sys.exit(main())
