# SPDX-License-Identifier: Apache-2.0
"""With TLS an enforcer may stream only the node that its certificate names."""

from pathlib import Path

import grpc
import pytest

from pointsman_chassis.channel import open_channel
from support.certificates import Authority
from support.cluster_objects import node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import EnforcerClient, eventually, plan_server


async def test_own_node_is_served_and_another_is_denied(tmp_path: Path) -> None:
    authority = Authority("pointsman test")
    server_security = authority.issue(tmp_path, "localhost")
    client_security = authority.issue(tmp_path, "node-a", server_name="localhost")
    async with plan_server(security=server_security) as server:
        server.put(node("node-a", "192.168.0.2"), service("web", "10.96.0.1"))
        async with open_channel(server.address, security=client_security) as channel:
            own = EnforcerClient(channel, ModelEnforcer("node-a"))
            await own.start()
            await eventually(lambda: server.is_converged("node-a"), "the node's own plan")
            other = EnforcerClient(channel, ModelEnforcer("node-b"))
            await other.start()
            code, details = await other.status()
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "node-b" in details
            assert not other.enforcer.plans
            assert set(server.planner.sessions) == {"node-a"}
            await own.close()


@pytest.mark.parametrize("trusted", [False, True])
async def test_only_certificates_of_the_authority_are_heard(tmp_path: Path, trusted: bool) -> None:
    authority, stranger = Authority("pointsman test"), Authority("somebody else")
    server_security = authority.issue(tmp_path, "localhost")
    issuer = authority if trusted else stranger
    client_security = issuer.issue(tmp_path, "node-a", server_name="localhost", trust=authority)
    async with plan_server(security=server_security) as server:
        server.put(service("web", "10.96.0.1"))
        async with open_channel(server.address, security=client_security) as channel:
            client = EnforcerClient(channel, ModelEnforcer("node-a"))
            if trusted:
                await client.start()
                await eventually(lambda: server.is_converged("node-a"), "the plan")
            else:
                code, _ = await client.status()
                assert code is grpc.StatusCode.UNAVAILABLE
                assert not server.planner.sessions
            await client.close()
