# SPDX-License-Identifier: Apache-2.0
"""A planner process: certificates on one address, tokens on another, which is the one that it tells enforcers."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2
from pointsman_chassis.channel import open_channel
from pointsman_chassis.settings import settings_as_data
from pointsman_chassis.tls import TransportSecurity
from pointsman_lab.apiserver.identities import account_holder, web_token
from pointsman_planner.access.settings import AccessSettings, TokenSettings
from pointsman_planner.settings import PlannerSettings
from pointsman_planner.shard import advertised_address
from support.certificates import Authority
from support.guarded_planner import control, refusal, reviewing_api_server
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, METHOD
from support.redis_server import free_port


class Process:
    """A planner process that has no watcher, and what its callers need."""

    def __init__(self, directory: Path, token: str) -> None:
        self.directory = directory
        self.authority = Authority("pointsman test")
        self.port, self.token_port = free_port(), free_port()
        self.token_file = directory / "token"
        self.token_file.write_text(token)
        self.security = self.authority.issue(directory, "localhost")

    def configuration(self, kubeconfig: Path) -> Path:
        tokens = {"listenAddress": f"127.0.0.1:{self.token_port}", "isAdvertised": True}
        document = {
            "apiVersion": "config.pointsman.io/v1alpha1",
            "kind": "PlannerConfiguration",
            "watcherAddresses": ["127.0.0.1:1"],
            "listenAddress": f"127.0.0.1:{self.port}",
            "metricsBindAddress": "",
            "security": settings_as_data(self.security),
            "access": {
                "kubeconfig": str(kubeconfig),
                "rules": [{"groups": ["ops"], "namespaces": ["*"]}],
                "tokens": tokens,
            },
        }
        path = self.directory / "planner.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def dial(self, name: str, *groups: str) -> grpc.aio.Channel:
        files = self.authority.issue(self.directory, name, server_name="localhost", groups=groups)
        return open_channel(f"127.0.0.1:{self.port}", security=files)

    def dial_with_token(self) -> grpc.aio.Channel:
        security = TransportSecurity(
            ca_file=self.security.ca_file, token_file=str(self.token_file), server_name="localhost"
        )
        return open_channel(f"127.0.0.1:{self.token_port}", security=security)


@pytest.fixture
async def planner(tmp_path: Path) -> AsyncIterator[Process]:
    holder = account_holder("pointsman-system", "pointsman-enforcer", audience="pointsman-planner", node="node-a")
    token = web_token(holder)
    (tmp_path / "api").mkdir()
    async with reviewing_api_server(tmp_path / "api") as (api, kubeconfig):
        api.identities.tokens[token] = holder
        made = Process(tmp_path, token)
        argv = (sys.executable, "-m", "pointsman_planner", "--config", str(made.configuration(kubeconfig)))
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
        try:
            async with made.dial("prober") as channel:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(
                    b"", timeout=DEADLINE_SECONDS, wait_for_ready=True
                )
            yield made
        finally:
            process.terminate()
            await process.wait()


async def test_rules_say_who_is_asked_to_wait_and_who_is_refused(planner: Process) -> None:
    async with planner.dial("alice", "ops") as channel:
        code, _ = await refusal(control(channel).ListNodes(pb.ListNodesRequest()))
        assert code is grpc.StatusCode.FAILED_PRECONDITION  # not in sync: past the guard
    async with planner.dial("mallory", "others") as channel:
        code, _ = await refusal(control(channel).ListNodes(pb.ListNodesRequest()))
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_node_bound_token_opens_the_stream_of_its_node_and_of_no_other(planner: Process) -> None:
    async with planner.dial_with_token() as channel:
        call = channel.stream_stream(METHOD)()
        await call.write(ModelEnforcer("node-a").hello().SerializeToString())
        async with asyncio.timeout(DEADLINE_SECONDS):
            first = plan_service_pb2.StreamNodePlanResponse.FromString(await call.read())
        assert first.HasField("welcome")
        call.cancel()
        call = channel.stream_stream(METHOD)()
        await call.write(ModelEnforcer("node-b").hello().SerializeToString())
        assert (await refusal(call.read()))[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("is_advertised", "expected"), [(True, "10.0.0.9:7445"), (False, "10.0.0.9:7444")])
def test_enforcers_are_told_the_address_for_tokens_when_they_have_tokens(is_advertised: bool, expected: str) -> None:
    tokens = TokenSettings(listen_address="0.0.0.0:7445", is_advertised=is_advertised)
    files = TransportSecurity(cert_file="c", key_file="k", ca_file="a")
    settings = PlannerSettings(listen_address="0.0.0.0:7444", security=files, access=AccessSettings(tokens=tokens))
    port = 7445 if is_advertised else 7444
    assert advertised_address(settings, port=port, pod_ip="10.0.0.9") == expected
