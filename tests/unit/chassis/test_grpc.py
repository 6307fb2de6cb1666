# SPDX-License-Identifier: Apache-2.0
"""Server and channel against each other on real sockets: raw bytes, health, reflection, bounds, errors, TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pointsman_chassis import errors
from pointsman_chassis.channel import open_channel
from pointsman_chassis.errors import ConfigError, PointsmanError, errors_to_status, grpc_status
from pointsman_chassis.grpc_options import MESSAGE_BYTES_MAX
from pointsman_chassis.server import GrpcServer, raw_stream_stream, raw_unary_stream
from pointsman_chassis.tls import TransportSecurity
from support.certificates import Authority

SERVICE = "test.v1.EchoService"
PLAIN = TransportSecurity(insecure=True)


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request[::-1]


async def of_size(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield bytes(int(request))


async def failing(request: bytes, context: Any) -> AsyncIterator[bytes]:
    async with errors_to_status(context):
        kind: type[PointsmanError] = getattr(errors, request.decode())
        raise kind("because")
    yield b""


@asynccontextmanager
async def serving(
    security: TransportSecurity = PLAIN, *, reflection: bool = False
) -> AsyncIterator[tuple[GrpcServer, str]]:
    server = GrpcServer(address="127.0.0.1:0", security=security, reflection_enabled=reflection)
    server.add_raw_service(
        SERVICE,
        {
            "Echo": raw_stream_stream(echo, request_deserializer=None),
            "OfSize": raw_unary_stream(of_size, request_deserializer=None),
            "Fail": raw_unary_stream(failing, request_deserializer=None),
        },
    )
    port = await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(grace_seconds=0)


async def call(address: str, method: str, request: bytes, security: TransportSecurity = PLAIN) -> list[bytes]:
    async with open_channel(address, security=security) as channel, asyncio.timeout(30):
        responses = channel.unary_stream(f"/{SERVICE}/{method}")(request)
        return [response async for response in responses]


async def health_of(address: str, service: str) -> str:
    async with open_channel(address, security=PLAIN) as channel, asyncio.timeout(30):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_bytes_travel_both_ways_untouched() -> None:
    async with serving() as (_, address), open_channel(address, security=PLAIN) as channel, asyncio.timeout(30):
        stream = channel.stream_stream(f"/{SERVICE}/Echo")()
        await stream.write(b"\x00\xff one")
        assert await stream.read() == b"eno \xff\x00"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_message_at_the_bound_passes_and_one_beyond_is_refused() -> None:
    async with serving() as (_, address):
        [largest] = await call(address, "OfSize", str(MESSAGE_BYTES_MAX).encode())
        assert len(largest) == MESSAGE_BYTES_MAX
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, "OfSize", str(MESSAGE_BYTES_MAX + 1).encode())
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_follows_each_service_and_the_whole() -> None:
    async with serving() as (server, address):
        assert await health_of(address, SERVICE) == "NOT_SERVING"
        assert await health_of(address, "") == "NOT_SERVING"
        await server.set_serving(SERVICE, serving=True)
        assert await health_of(address, SERVICE) == "SERVING"
        assert await health_of(address, "") == "SERVING"
        await server.set_serving(SERVICE, serving=False)
        assert await health_of(address, "") == "NOT_SERVING"


async def test_the_health_of_an_undeclared_service_cannot_be_set() -> None:
    async with serving() as (server, _):
        with pytest.raises(ValueError, match="was not declared"):
            await server.set_serving("test.v1.Other", serving=True)


async def test_a_stop_lets_a_call_in_progress_end() -> None:
    async with serving() as (server, address), open_channel(address, security=PLAIN) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/Echo")()
        await stream.write(b"ab")
        assert await stream.read() == b"ba"
        stopping = asyncio.create_task(server.stop(grace_seconds=30))
        await stream.write(b"cd")
        assert await stream.read() == b"dc"
        await stream.done_writing()
        async with asyncio.timeout(20):
            await stopping


@pytest.mark.parametrize("enabled", [True, False])
async def test_reflection_is_there_only_when_asked_for(enabled: bool) -> None:
    async with serving(reflection=enabled) as (_, address), open_channel(address, security=PLAIN) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        stream = stub.ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await stream.done_writing()
        if enabled:
            answer = await stream.read()
            assert SERVICE in {service.name for service in answer.list_services_response.service}
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("ConfigError", grpc.StatusCode.INVALID_ARGUMENT),
        ("NotInSyncError", grpc.StatusCode.FAILED_PRECONDITION),
        ("UnavailableError", grpc.StatusCode.UNAVAILABLE),
        ("SlowConsumerError", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("StaleVersionError", grpc.StatusCode.ABORTED),
        ("PeerError", grpc.StatusCode.INVALID_ARGUMENT),
        ("UnsupportedError", grpc.StatusCode.UNIMPLEMENTED),
        ("LocalProtocolError", grpc.StatusCode.INTERNAL),
    ],
)
async def test_an_error_of_ours_arrives_as_its_status_with_its_message(name: str, status: grpc.StatusCode) -> None:
    async with serving() as (_, address):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, "Fail", name.encode())
    assert (caught.value.code(), caught.value.details()) == (status, "because")


def test_every_error_class_has_a_status() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PointsmanError)]
    unmapped = {kind for kind in classes if grpc_status(kind("x")) is grpc.StatusCode.UNKNOWN}
    assert unmapped == {PointsmanError}


async def test_a_port_in_use_is_a_configuration_error() -> None:
    async with serving() as (_, address):
        second = GrpcServer(address=address, security=PLAIN)
        with pytest.raises(ConfigError, match=address):
            await second.start()
        await second.stop(grace_seconds=0)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("cluster")


async def test_both_sides_prove_who_they_are(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue(tmp_path, "planner")
    client = authority.issue(tmp_path, "node-1", server_name="planner")
    async with serving(server) as (_, address):
        assert await call(address, "OfSize", b"3", client) == [bytes(3)]


async def test_a_certificate_of_another_authority_is_turned_away(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue(tmp_path, "planner")
    stranger = Authority("stranger").issue(tmp_path, "node-1", server_name="planner", trust=authority)
    async with serving(server) as (_, address):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, "OfSize", b"3", stranger)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_client_without_a_certificate_is_turned_away(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue(tmp_path, "planner")
    async with serving(server) as (_, address):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, "OfSize", b"3", PLAIN)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_rotated_certificate_is_served_to_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue(tmp_path, "planner")
    client = authority.issue(tmp_path, "node-1", server_name="planner")
    async with serving(server) as (_, address):
        before = await served_certificate(address, client)
        authority.issue(tmp_path, "planner")
        after = await served_certificate(address, client)
        assert await call(address, "OfSize", b"1", client) == [bytes(1)]
    assert before != after


async def served_certificate(address: str, client: TransportSecurity) -> bytes | None:
    """The certificate in DER that a new TLS connection is shown."""
    context = ssl.create_default_context(cafile=client.ca_file)
    context.load_cert_chain(client.cert_file, client.key_file)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(30):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="planner")
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"insecure": True, "ca_file": "x"}, "insecure: true excludes"),
        ({"cert_file": "x"}, "must be given together"),
    ],
)
def test_half_a_security_section_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransportSecurity(**fields)


def test_plaintext_is_never_assumed() -> None:
    with pytest.raises(ConfigError, match="insecure: true"):
        open_channel("127.0.0.1:1", security=TransportSecurity())
    with pytest.raises(ConfigError, match="insecure: true"):
        GrpcServer(address="127.0.0.1:0", security=TransportSecurity())


def test_a_certificate_file_that_is_not_there_is_named() -> None:
    missing = TransportSecurity(cert_file="/nonexistent/a", key_file="/nonexistent/b", ca_file="/nonexistent/c")
    with pytest.raises(ConfigError, match=r"/nonexistent/"):
        open_channel("127.0.0.1:1", security=missing)
