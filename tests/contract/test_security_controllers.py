# SPDX-License-Identifier: Apache-2.0
"""What controllers may do: by verb, resource and namespace, from rules and from the API server, over real TLS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import override_service_pb2 as overrides_pb
from pointsman.types.v1 import types_pb2
from pointsman_chassis.duration import Duration
from pointsman_lab.apiserver.identities import account_holder, web_token
from pointsman_planner.access.settings import AccessSettings, RuleSettings, TokenSettings
from support.cluster_objects import service
from support.guarded_planner import (
    GuardedPlanner,
    control,
    guarded_planner,
    overrides,
    refusal,
    reviewing_api_server,
    until_refused,
    write_rules,
)
from support.override_server import drain_of
from support.plan_server import DEADLINE_SECONDS

READ_SHOP = RuleSettings(groups=("shop-team",), namespaces=("shop",))
OVERRIDE_SHOP = RuleSettings(
    users=("canary",), verbs=("override", "get"), resources=("overrides",), namespaces=("shop",)
)
GET_WEB = pb.GetServiceRequest(name=types_pb2.NamespacedName(namespace="shop", name="web"))
GET_DB = pb.GetServiceRequest(name=types_pb2.NamespacedName(namespace="bank", name="db"))
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def planner(tmp_path: Path) -> AsyncIterator[GuardedPlanner]:
    async with guarded_planner(tmp_path, access=AccessSettings(rules=(READ_SHOP, OVERRIDE_SHOP))) as made:
        yield made


def names(response: Any) -> list[str]:
    return [f"{each.service.name.namespace}/{each.service.name.name}" for each in response.services]


async def first_names(watch: Any) -> list[str]:
    """Services of a watch's snapshot."""
    found: list[str] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            message = await watch.read()
            found += names(message.changes)
            if message.HasField("synced"):
                return found


async def test_by_default_everybody_known_reads_and_nobody_overrides(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path) as planner, planner.dial("alice") as channel:
        assert names(await control(channel).ListServices(pb.ListServicesRequest())) == ["bank/db", "shop/web"]
        request = overrides_pb.ApplyOverrideRequest(override=drain_of("shop/d", "10.0.0.1"))
        code, details = await refusal(overrides(channel).ApplyOverride(request))
    assert code is DENIED
    assert "override overrides in namespace 'shop'" in details


async def test_a_list_is_filtered_to_the_namespaces_of_the_caller(planner: GuardedPlanner) -> None:
    async with planner.dial("alice", "shop-team") as channel:
        assert names(await control(channel).ListServices(pb.ListServicesRequest())) == ["shop/web"]


async def test_a_watch_is_filtered_to_the_namespaces_of_the_caller(planner: GuardedPlanner) -> None:
    async with planner.dial("alice", "shop-team") as channel:
        watch = control(channel).WatchServices(pb.WatchServicesRequest())
        assert await first_names(watch) == ["shop/web"]
        planner.put(service("bank/cards", "10.96.0.3"), service("shop/cart", "10.96.0.4"))
        seen: list[str] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not seen:
                seen += names((await watch.read()).changes)
        assert seen == ["shop/cart"]


async def test_a_watch_of_endpoints_is_filtered_to_the_namespaces_of_the_caller(planner: GuardedPlanner) -> None:
    async with planner.dial("alice", "shop-team") as channel:
        found = []
        async for message in control(channel).WatchEndpoints(pb.WatchEndpointsRequest()):
            found += [each.service.name for each in message.changes.services]
            if message.HasField("synced"):
                break
        assert found == ["web"]


async def test_namespace_not_allowed_is_refused_and_the_missing_right_is_named(planner: GuardedPlanner) -> None:
    async with planner.dial("alice", "shop-team") as channel:
        assert (await control(channel).GetService(GET_WEB)).summary.service.name.name == "web"
        code, details = await refusal(control(channel).GetService(GET_DB))
    assert code is DENIED
    assert "'alice' may not get services in namespace 'bank'" in details
    assert planner.refused("forbidden") == 1


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListNodes", pb.ListNodesRequest()),
        ("GetNode", pb.GetNodeRequest(node_name="node-a")),
        ("GetNodePlan", pb.GetNodePlanRequest(node_name="node-a")),
        ("ExplainPacket", pb.ExplainPacketRequest(node_name="node-a")),
        ("WaitConverged", pb.WaitConvergedRequest()),
        ("ListServices", pb.ListServicesRequest(namespace="bank")),
    ],
)
async def test_rights_in_a_namespace_do_not_reach_beyond_it(
    planner: GuardedPlanner, method: str, request_: Any
) -> None:
    async with planner.dial("alice", "shop-team") as channel:
        code, details = await refusal(getattr(control(channel), method)(request_))
    assert code is DENIED
    assert "may not" in details


async def test_a_caller_whom_no_rule_names_is_refused_lists_too(planner: GuardedPlanner) -> None:
    async with planner.dial("mallory", "others") as channel:
        code, details = await refusal(control(channel).ListServices(pb.ListServicesRequest()))
        assert code is DENIED
        assert "list services in any namespace" in details
        code, _ = await refusal(control(channel).WatchServices(pb.WatchServicesRequest()).read())
        assert code is DENIED


async def test_override_without_right_is_refused(planner: GuardedPlanner) -> None:
    request = overrides_pb.ApplyOverrideRequest(override=drain_of("shop/d", "10.0.0.1"))
    async with planner.dial("alice", "shop-team") as channel:
        code, details = await refusal(overrides(channel).ApplyOverride(request))
    assert code is DENIED
    assert "override overrides" in details


@pytest.mark.parametrize("name", ["bank/d", "d"])
async def test_override_with_right_is_applied_in_its_namespace_only(planner: GuardedPlanner, name: str) -> None:
    async with planner.dial("canary") as channel:
        stub = overrides(channel)
        request = overrides_pb.ApplyOverrideRequest(override=drain_of("shop/d", "10.0.0.1"))
        assert (await stub.ApplyOverride(request)).override.etag
        other = overrides_pb.ApplyOverrideRequest(override=drain_of(name, "10.0.0.1"))
        assert (await refusal(stub.ApplyOverride(other)))[0] is DENIED


async def test_revoked_role_the_next_call_is_refused_and_the_running_watch_ended(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    write_rules(rules, READ_SHOP)
    access = AccessSettings(rules=(), rules_file=str(rules), recheck_interval=Duration(0.1))
    async with guarded_planner(tmp_path, access=access) as planner, planner.dial("alice", "shop-team") as channel:
        watch = control(channel).WatchServices(pb.WatchServicesRequest())
        assert await first_names(watch) == ["shop/web"]
        write_rules(rules)
        code, _ = await refusal(control(channel).GetService(GET_WEB))
        assert code is DENIED
        assert (await until_refused(watch.read))[0] is DENIED


async def test_a_watch_whose_namespaces_change_is_ended_to_begin_anew(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    write_rules(rules, READ_SHOP)
    access = AccessSettings(rules=(), rules_file=str(rules), recheck_interval=Duration(0.1))
    async with guarded_planner(tmp_path, access=access) as planner, planner.dial("alice", "shop-team") as channel:
        watch = control(channel).WatchServices(pb.WatchServicesRequest())
        assert await first_names(watch) == ["shop/web"]
        write_rules(rules, READ_SHOP, RuleSettings(users=("alice",), namespaces=("bank",)))
        code, details = await until_refused(watch.read)
        assert (code, "watch anew" in details) == (grpc.StatusCode.ABORTED, True)
        assert await first_names(control(channel).WatchServices(pb.WatchServicesRequest())) == ["bank/db", "shop/web"]


async def test_a_file_of_rules_that_goes_bad_leaves_the_rules_before_in_force(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    write_rules(rules, READ_SHOP)
    access = AccessSettings(rules=(), rules_file=str(rules))
    async with guarded_planner(tmp_path, access=access) as planner, planner.dial("alice", "shop-team") as channel:
        rules.write_text("rules: [")
        assert (await control(channel).GetService(GET_WEB)).summary.service.name.name == "web"
        assert (await refusal(control(channel).GetService(GET_DB)))[0] is DENIED


async def test_no_certificate_may_ask_for_health_and_nothing_else(tmp_path: Path) -> None:
    access = AccessSettings(tokens=TokenSettings(listen_address="127.0.0.1:0"))
    async with (
        guarded_planner(tmp_path, access=access) as planner,
        planner.dial_with_nothing(planner.token_address) as channel,
    ):
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await health(b"")
        code, details = await refusal(control(channel).ListServices(pb.ListServicesRequest()))
        assert (code, "certificate" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        assert (await refusal(reflection.read()))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_the_api_server_gives_rights_that_no_rule_gives_and_takes_them_back(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    async with reviewing_api_server(tmp_path / "api") as (api, kubeconfig):
        api.identities.allows = lambda spec: bool(
            spec["user"] == "system:serviceaccount:ops:viewer"
            and spec["resourceAttributes"]["group"] == "pointsman.io"
            and spec["resourceAttributes"].get("namespace") == "bank"
            and spec["resourceAttributes"]["verb"] in {"get", "list", "watch"}
        )
        holder = account_holder("ops", "viewer", audience="pointsman-planner")
        token = web_token(holder)
        api.identities.tokens[token] = holder
        access = AccessSettings(
            rules=(READ_SHOP,),
            access_review=True,
            review_cache_for=Duration(0),
            recheck_interval=Duration(0.1),
            kubeconfig=str(kubeconfig),
            tokens=TokenSettings(listen_address="127.0.0.1:0"),
        )
        async with guarded_planner(tmp_path, access=access) as planner, planner.dial_with_token(token) as channel:
            stub = control(channel)
            assert names(await stub.ListServices(pb.ListServicesRequest())) == ["bank/db"]
            assert (await stub.GetService(GET_DB)).summary.service.name.name == "db"
            assert (await refusal(stub.GetService(GET_WEB)))[0] is DENIED
            watch = stub.WatchServices(pb.WatchServicesRequest())
            assert await first_names(watch) == ["bank/db"]
            api.identities.allows = lambda spec: False
            assert (await until_refused(watch.read))[0] is DENIED
            code, details = await refusal(stub.GetService(GET_DB))
            assert (code, "pointsman.io" in details) == (DENIED, True)
            await api.stop()
            assert (await refusal(stub.GetService(GET_DB)))[0] is DENIED
            new = pb.GetEndpointsRequest(service=GET_DB.name)
            assert (await refusal(stub.GetEndpoints(new)))[0] is grpc.StatusCode.UNAVAILABLE
