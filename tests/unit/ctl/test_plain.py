# SPDX-License-Identifier: Apache-2.0
"""Messages become data that people read, and come back from it unchanged."""

from typing import Any

import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import override_service_pb2 as override_pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman.types.v1 import types_pb2
from pointsman_ctl.core.plain import enum_word, fill, plain


def test_names_addresses_digests_and_enum_values_are_words() -> None:
    status = pb.NodeStatus(
        name="n1",
        state=pb.NodeStatus.STATE_SYNCED,
        mode=plan_pb.PROXY_MODE_NFTABLES,
        desired_digest=255,
        failures=[
            plan_pb.ServiceFailure(
                service=types_pb2.NamespacedName(namespace="shop", name="web"), stage=plan_pb.ServiceFailure.STAGE_APPLY
            )
        ],
    )
    status.since.FromJsonString("2026-01-02T03:04:05Z")
    data = plain(status)
    assert (data["state"], data["mode"], data["desiredDigest"]) == ("Synced", "nftables", "00000000000000ff")
    assert data["failures"] == [{"service": "shop/web", "stage": "Apply", "message": ""}]
    assert data["since"] == "2026-01-02T03:04:05Z"
    assert "drift" not in data, "what the contract tells from zero is left out when it is absent"
    assert data["pendingServices"] == 0


def test_endpoint_sets_are_lists_of_endpoints_of_either_family() -> None:
    four = plan_pb.EndpointSet(addresses=bytes([10, 0, 0, 1, 10, 0, 0, 2]), ports=[80, 81], weights=[1, 5], hairpin=[1])
    assert plain(four) == [
        {"address": "10.0.0.1", "port": 80, "weight": 1, "hairpin": False},
        {"address": "10.0.0.2", "port": 81, "weight": 5, "hairpin": True},
    ]
    six = plan_pb.EndpointSet(addresses=bytes(15) + b"\1", ports=[80])
    assert plain(six) == [{"address": "::1", "port": 80, "weight": 1, "hairpin": False}]
    assert plain(plan_pb.EndpointSet()) == []


@pytest.mark.parametrize(
    ("descriptor", "number", "word"),
    [
        (plan_pb.Frontend.Kind.DESCRIPTOR, plan_pb.Frontend.KIND_CLUSTER_IP, "ClusterIP"),
        (plan_pb.Frontend.Kind.DESCRIPTOR, plan_pb.Frontend.KIND_LOAD_BALANCER_IP, "LoadBalancerIP"),
        (types_pb2.Protocol.DESCRIPTOR, types_pb2.PROTOCOL_SCTP, "SCTP"),
        (types_pb2.IPFamily.DESCRIPTOR, types_pb2.IP_FAMILY_IPV6, "IPv6"),
        (pb.Exclusion.Cause.DESCRIPTOR, pb.Exclusion.CAUSE_NOT_READY, "NotReady"),
        (pb.Exclusion.Cause.DESCRIPTOR, 0, ""),
        (pb.Exclusion.Cause.DESCRIPTOR, 99, "unknown (99)"),
    ],
)
def test_enum_values_are_written_as_kubernetes_writes_words(descriptor: Any, number: int, word: str) -> None:
    assert enum_word(descriptor, number) == word


def test_an_override_comes_back_from_its_data() -> None:
    made = override_pb.Override(
        name=types_pb2.NamespacedName(namespace="shop", name="vms"),
        owner="me",
        spec={"service_name": "web", "reason": "x"},
    )
    made.spec.ttl.FromSeconds(90)
    made.spec.register.ports.add(name="p", protocol=types_pb2.PROTOCOL_UDP, port=53)
    made.spec.register.endpoints.add(address=bytes(15) + b"\7", node_name="n", zone_hints=["a", "b"])
    made.expire_time.FromJsonString("2026-01-02T03:04:05Z")
    again = override_pb.Override()
    assert fill(again, plain(made)) == []
    assert again == made


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "document: expected a mapping, got list"),
        ({"spec": {"drain": {"endpoint": {}}}}, "spec.drain.endpoint: unknown field; did you mean endpoints?"),
        ({"spec": {"register": {"ports": {}}}}, "spec.register.ports: expected a list, got dict"),
        (
            {"spec": {"register": {"ports": [{"protocol": "tcp"}]}}},
            "spec.register.ports[0].protocol: expected one of TCP, UDP, SCTP, got 'tcp'",
        ),
        ({"owner": 7}, "owner: expected text, got 7"),
        (
            {"spec": {"weight": {"rules": [{"weight": True}]}}},
            "spec.weight.rules[0].weight: expected a whole number, got True",
        ),
        ({"spec": {"ttl": "soon"}}, "spec.ttl: "),
        ({"spec": {"weight": {"rules": [{"weight": -1}]}}}, "spec.weight.rules[0].weight: "),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(data: Any, problem: str) -> None:
    (found,) = fill(override_pb.Override(), data)
    assert found.startswith(problem)
