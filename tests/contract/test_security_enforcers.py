# SPDX-License-Identifier: Apache-2.0
"""Whose plan an enforcer gets: that of the node in its certificate or token, over real TLS, and no other."""

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pointsman_chassis.channel import open_channel
from pointsman_chassis.duration import Duration
from pointsman_chassis.guard import CallLimits
from pointsman_lab.apiserver import ApiServer
from pointsman_lab.apiserver.identities import API_AUDIENCE, Holder, account_holder, web_token
from pointsman_planner.access.settings import AccessSettings, TokenSettings
from support.certificates import Authority
from support.guarded_planner import GuardedPlanner, guarded_planner, reviewing_api_server
from support.model_enforcer import ModelEnforcer
from support.plan_server import EnforcerClient, eventually

AUDIENCE = "pointsman-planner"
ACCOUNT = ("pointsman-system", "pointsman-enforcer")


@pytest.fixture
async def planner(tmp_path: Path) -> AsyncIterator[GuardedPlanner]:
    async with guarded_planner(tmp_path) as made:
        yield made


class Cluster:
    """A planner that takes tokens, and the API server that it asks."""

    def __init__(self, planner: GuardedPlanner, api: ApiServer) -> None:
        self.planner = planner
        self.api = api

    def token(self, holder: Holder, *, serial: int = 0) -> str:
        made = web_token(holder, serial=serial)
        self.api.identities.tokens[made] = holder
        return made


@asynccontextmanager
async def cluster(directory: Path, *, limits: CallLimits | None = None, **words: float) -> AsyncIterator[Cluster]:
    (directory / "api").mkdir()
    async with reviewing_api_server(directory / "api") as (api, kubeconfig):
        times = {name: Duration(value) for name, value in words.items()}
        access = AccessSettings(kubeconfig=str(kubeconfig), tokens=TokenSettings(listen_address="127.0.0.1:0", **times))
        async with guarded_planner(directory, access=access, limits=limits) as planner:
            yield Cluster(planner, api)


async def is_served(planner: GuardedPlanner, channel: grpc.aio.Channel, node: str) -> EnforcerClient:
    client = EnforcerClient(channel, ModelEnforcer(node))
    await client.start()
    await eventually(lambda: planner.is_converged(node), f"{node} has its plan")
    return client


async def end_of(channel: grpc.aio.Channel, node: str) -> tuple[grpc.StatusCode, str]:
    """Status with which a stream ends that says it is a node, and has brought nothing."""
    client = EnforcerClient(channel, ModelEnforcer(node))
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it may be over before it said hello
        await client.start()
    code, details = await client.status()
    assert not client.enforcer.plans
    return code, details or ""


async def test_own_node_by_certificate_is_served(planner: GuardedPlanner) -> None:
    async with planner.dial("node-a") as channel:
        client = await is_served(planner, channel, "node-a")
        await client.close()


async def test_wrong_node_in_the_certificate_is_denied(planner: GuardedPlanner) -> None:
    async with planner.dial("node-a") as channel:
        code, details = await end_of(channel, "node-b")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "node-b" in details


async def test_a_controllers_certificate_gets_no_nodes_plan(planner: GuardedPlanner) -> None:
    async with planner.dial("alice", "system:masters") as channel:
        code, _ = await end_of(channel, "node-a")
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_wrong_ca_is_not_spoken_to(planner: GuardedPlanner) -> None:
    stranger = Authority("stranger").issue(
        planner.directory, "node-a", server_name="localhost", trust=planner.authority
    )
    async with open_channel(planner.address, security=stranger) as channel:
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAVAILABLE
    assert not planner.planner.sessions


async def test_a_planner_of_a_wrong_ca_is_not_believed(planner: GuardedPlanner) -> None:
    security = planner.identity("node-a", trust=Authority("stranger"))
    async with open_channel(planner.address, security=security) as channel:
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAVAILABLE
    assert not planner.planner.sessions


async def test_expired_certificate_is_not_spoken_to(planner: GuardedPlanner) -> None:
    expired = planner.identity("node-a", valid_for=dt.timedelta(hours=-1))
    async with open_channel(planner.address, security=expired) as channel:
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAVAILABLE
    assert not planner.planner.sessions


async def test_a_stream_ends_when_the_certificate_it_began_with_expires(planner: GuardedPlanner) -> None:
    short = planner.identity("node-a", valid_for=dt.timedelta(seconds=4))
    async with open_channel(planner.address, security=short) as channel:
        client = await is_served(planner, channel, "node-a")
        code, details = await client.status()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "expired" in details
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAUTHENTICATED
        await client.close()


async def test_no_certificate_is_not_spoken_to(planner: GuardedPlanner) -> None:
    async with planner.dial_with_nothing(planner.address) as channel:
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAVAILABLE
    assert not planner.planner.sessions


async def test_plaintext_to_a_planner_with_tls_is_not_spoken_to(planner: GuardedPlanner) -> None:
    async with grpc.aio.insecure_channel(planner.address) as channel:
        assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAVAILABLE
    assert not planner.planner.sessions


async def test_own_node_by_token_is_served_and_a_rotated_token_is_shown(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        token = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node="node-a"))
        async with made.planner.dial_with_token(token) as channel:
            client = await is_served(made.planner, channel, "node-a")
            rotated = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node="node-b"), serial=2)
            (tmp_path / "token").write_text(rotated)
            other = await is_served(made.planner, channel, "node-b")
            await other.close()
            await client.close()
        assert made.api.stats.requests["create", "tokenreviews"] == 2


async def test_nodes_that_share_a_service_account_do_not_share_its_limits(tmp_path: Path) -> None:
    async with cluster(tmp_path, limits=CallLimits(calls_per_identity_max=1)) as made:
        clients = []
        async with AsyncExitStack() as stack:
            for serial, node in enumerate(("node-a", "node-b")):
                token = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node=node), serial=serial)
                channel = await stack.enter_async_context(made.planner.dial_with_token(token, node))
                clients.append(await is_served(made.planner, channel, node))
            for client in clients:
                await client.close()


@pytest.mark.parametrize(
    ("holder", "expected", "words"),
    [
        pytest.param(
            account_holder(*ACCOUNT, audience=AUDIENCE, node="node-b"),
            grpc.StatusCode.PERMISSION_DENIED,
            "node-a",
            id="token-of-another-node",
        ),
        pytest.param(
            account_holder(*ACCOUNT, audience=AUDIENCE),
            grpc.StatusCode.PERMISSION_DENIED,
            "node-a",
            id="token-bound-to-no-node",
        ),
        pytest.param(
            account_holder("shop", "default", audience=AUDIENCE, node="node-a"),
            grpc.StatusCode.PERMISSION_DENIED,
            "node-a",
            id="token-of-another-service-account",
        ),
        pytest.param(
            account_holder(*ACCOUNT, audience=API_AUDIENCE, node="node-a"),
            grpc.StatusCode.UNAUTHENTICATED,
            "audience pointsman-planner",
            id="token-of-wrong-audience",
        ),
        pytest.param(
            account_holder(*ACCOUNT, audience=AUDIENCE, node="node-a", expires_at=1.0),
            grpc.StatusCode.UNAUTHENTICATED,
            "expired",
            id="expired-token",
        ),
        pytest.param(None, grpc.StatusCode.UNAUTHENTICATED, "does not take the token", id="unknown-token"),
    ],
)
async def test_refused(tmp_path: Path, holder: Holder | None, expected: grpc.StatusCode, words: str) -> None:
    async with cluster(tmp_path) as made:
        token = made.token(holder) if holder is not None else "made-up"
        async with made.planner.dial_with_token(token) as channel:
            code, details = await end_of(channel, "node-a")
        assert code is expected
        assert words in details
        assert not made.planner.planner.sessions


async def test_no_token_where_no_certificate_is_asked_for_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        async with made.planner.dial_with_nothing(made.planner.token_address) as channel:
            assert (await end_of(channel, "node-a"))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert made.planner.refused("unauthenticated") == 1


async def test_a_token_is_ignored_where_tokens_are_not_taken(planner: GuardedPlanner) -> None:
    async with planner.dial("node-a") as channel:
        call = channel.stream_stream("/pointsman.plan.v1.PlanService/StreamNodePlan")(
            metadata=(("authorization", "Bearer made-up"),)
        )
        await call.write(ModelEnforcer("node-a").hello().SerializeToString())
        assert await call.read()
        call.cancel()


async def test_a_stream_ends_when_the_token_it_began_with_expires(tmp_path: Path) -> None:
    async with cluster(tmp_path) as made:
        holder = account_holder(*ACCOUNT, audience=AUDIENCE, node="node-a", expires_at=time.time() + 4)
        async with made.planner.dial_with_token(made.token(holder)) as channel:
            client = await is_served(made.planner, channel, "node-a")
            code, details = await client.status()
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "expired" in details
            await client.close()


async def test_a_stream_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with cluster(tmp_path, cache_for=1.0) as made:
        token = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node="node-a"))
        async with made.planner.dial_with_token(token) as channel:
            client = await is_served(made.planner, channel, "node-a")
            del made.api.identities.tokens[token]
            code, _ = await client.status()
            assert code is grpc.StatusCode.UNAUTHENTICATED
            await client.close()


async def test_while_the_api_server_is_away_known_tokens_are_served_and_new_ones_unavailable(tmp_path: Path) -> None:
    async with cluster(tmp_path, cache_for=1.0) as made:
        known = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node="node-a"))
        new = made.token(account_holder(*ACCOUNT, audience=AUDIENCE, node="node-b"), serial=2)
        async with (
            made.planner.dial_with_token(known, "known") as channel,
            made.planner.dial_with_token(new, "new") as other,
        ):
            client = await is_served(made.planner, channel, "node-a")
            await made.api.stop()
            code, details = await end_of(other, "node-b")
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "TokenReview" in details
            await asyncio.sleep(1.1)  # time has to pass: what is known is not fresh after it
            await client.close()
            await eventually(lambda: not made.planner.planner.sessions, "the stream is over")
            again = await is_served(made.planner, channel, "node-a")
            await again.close()
