# SPDX-License-Identifier: Apache-2.0
"""Who gets in and in which encoding: TLS, tokens, client certificates, negotiation, several sockets, the command."""

import asyncio
import dataclasses
import gzip
import json
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from pointsman_lab.apiserver import ApiClient, ApiError, ApiServer, ServerOptions, new_cluster
from pointsman_lab.apiserver.auth import server_tls
from pointsman_lab.apiserver.encoding import Json
from pointsman_lab.apiserver.identities import account_holder
from pointsman_lab.apiserver.resources import NODES, SERVICES
from support.certificates import Authority


@pytest_asyncio.fixture
async def plain() -> AsyncIterator[ApiServer]:
    api = ApiServer(new_cluster())
    await api.start()
    yield api
    await api.stop()


def tls_of(files: object, *, client: bool) -> ssl.SSLContext:
    ca, cert, key = (getattr(files, name) for name in ("ca_file", "cert_file", "key_file"))
    context = ssl.create_default_context(cafile=ca)
    if client:
        context.load_cert_chain(cert, key)
    return context


async def test_tls_with_token_certificate_or_nothing(tmp_path: Path) -> None:
    authority, stranger = Authority("lab"), Authority("stranger")
    files = authority.issue(tmp_path, "localhost")
    tls = server_tls(Path(files.cert_file), Path(files.key_file), Path(files.ca_file))
    server = ApiServer(new_cluster(), ServerOptions(tls=tls, tokens={"t0k3n": "watcher"}, anonymous=False))
    await server.start()
    url = f"https://localhost:{server.addresses[0][1]}"
    user = authority.issue(tmp_path, "alice")
    outsider = stranger.issue(tmp_path, "mallory", trust=authority)
    try:
        for context, token, works in (
            (tls_of(user, client=False), "t0k3n", True),
            (tls_of(user, client=True), "", True),
            (tls_of(user, client=False), "", False),
            (tls_of(user, client=False), "wrong", False),
        ):
            async with ApiClient(url, tls=context, token=token) as client:
                if works:
                    assert (await client.list(SERVICES))["kind"] == "ServiceList"
                else:
                    with pytest.raises(ApiError) as refused:
                        await client.list(SERVICES)
                    assert (refused.value.code, refused.value.reason) == (401, "Unauthorized")
        async with ApiClient(url, tls=tls_of(user, client=False)) as client:
            assert (await client.request("GET", "/version"))["major"] == "1"
        async with ApiClient(url, tls=tls_of(outsider, client=True)) as client:
            with pytest.raises(aiohttp.ClientError):
                await client.list(SERVICES)
    finally:
        await server.stop()


async def test_one_server_listens_on_several_given_sockets() -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    server = ApiServer(new_cluster())
    await server.start(listeners)
    try:
        for _, port in server.addresses:
            async with ApiClient(f"http://127.0.0.1:{port}") as client:
                await client.list(NODES)
        assert len(server.addresses) == 2
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/vnd.kubernetes.protobuf,application/json", "ServiceList"),
        ("application/json;stream=watch,application/vnd.kubernetes.protobuf;stream=watch", "ServiceList"),
        ("*/*", "ServiceList"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "ServiceList"),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "PartialObjectMetadataList"),
    ],
)
async def test_first_acceptable_form_is_given(plain: ApiServer, accept: str, kind: str) -> None:
    headers = {"Accept": accept, "Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(plain.url + SERVICES.path(), headers=headers) as response,
    ):
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        assert (await response.json())["kind"] == kind


async def test_protobuf_alone_is_not_acceptable_and_cannot_be_read(plain: ApiServer) -> None:
    protobuf = "application/vnd.kubernetes.protobuf"
    async with aiohttp.ClientSession() as session:
        async with session.get(plain.url + SERVICES.path(), headers={"Accept": protobuf}) as response:
            assert response.status == 406
        posted = session.post(plain.url + SERVICES.path("default"), data=b"k8s\0", headers={"Content-Type": protobuf})
        async with posted as response:
            status = await response.json()
            assert (response.status, status["reason"]) == (415, "UnsupportedMediaType")
            assert "application/json" in status["message"]


async def test_yaml_body_is_read(plain: ApiServer) -> None:
    text = "metadata:\n  name: web\nspec:\n  ports:\n  - port: 80\n"
    headers = {"Content-Type": "application/yaml"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(plain.url + SERVICES.path("default"), data=text, headers=headers) as response,
    ):
        assert response.status == 201


async def test_gzipped_body_is_read(plain: ApiServer) -> None:
    body = gzip.compress(json.dumps({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(plain.url + SERVICES.path("default"), data=body, headers=headers) as response,
    ):
        assert response.status == 201


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/services", 405),
        ("PUT", "/api/v1/namespaces/default/services", 405),
        ("GET", "/api/v1/widgets", 404),
        ("GET", "/api/v1/services/kubernetes", 404),
        ("GET", "/apis/apps/v2/deployments", 404),
        ("GET", "/api/v1/namespaces/default/services/kubernetes/scale", 404),
        ("GET", "/api/v1/services?limit=x", 400),
        ("DELETE", "/api/v1/namespaces/default", 403),
        ("GET", "/healthz", 200),
        ("GET", "/readyz?verbose", 200),
        ("GET", "/openapi/v3/apis/apps/v1", 200),
        ("GET", "/nothing", 404),
    ],
)
async def test_path_answers(plain: ApiServer, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, plain.url + path) as response:
        assert response.status == status


async def test_reviews_are_answered_with_yes(plain: ApiServer) -> None:
    async with ApiClient(plain.url) as client:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        assert (await client.request("POST", path, {"spec": {}}))["status"]["allowed"] is True
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        assert (await client.request("POST", path, {"spec": {"token": "x"}}))["status"]["authenticated"] is False


async def test_a_token_review_names_the_holder_for_the_audience_that_is_asked_for(plain: ApiServer) -> None:
    holder = account_holder("ns", "agent", audience="planners", node="node-a")
    plain.identities.tokens["t"] = holder
    async with ApiClient(plain.url) as client:

        async def review(**spec: object) -> Json:
            body = {"spec": {"token": "t", **spec}}
            path = "/apis/authentication.k8s.io/v1/tokenreviews"
            status: Json = (await client.request("POST", path, body))["status"]
            return status

        found = await review(audiences=["others", "planners"])
        assert (found["authenticated"], found["audiences"]) == (True, ["planners"])
        assert found["user"]["username"] == "system:serviceaccount:ns:agent"
        assert found["user"]["extra"] == {"authentication.kubernetes.io/node-name": ["node-a"]}
        assert (await review(audiences=["others"]))["authenticated"] is False
        assert (await review())["authenticated"] is False
        plain.identities.tokens["t"] = dataclasses.replace(holder, expires_at=1.0)
        assert "expired" in (await review(audiences=["planners"]))["error"]


async def test_an_access_review_follows_the_rule_that_is_set(plain: ApiServer) -> None:
    plain.identities.allows = lambda spec: bool(spec["user"] == "alice")
    async with ApiClient(plain.url) as client:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        for user, expected in (("alice", True), ("bob", False)):
            spec = {"user": user, "resourceAttributes": {"verb": "get", "resource": "services"}}
            assert (await client.request("POST", path, {"spec": spec}))["status"]["allowed"] is expected


async def test_command_prints_its_url_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    token = "s3cret"  # noqa: S105 - a token of this test
    tokens.write_text(f"{token},me\n")
    command = [
        sys.executable,
        "-m",
        "pointsman_lab.apiserver",
        "--token-file",
        str(tokens),
        "--service-cidrs",
        "10.5.0.0/16",
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        async with ApiClient(url, token=token) as client:
            assert (await client.get(SERVICES, "kubernetes", "default"))["spec"]["clusterIP"] == "10.5.0.1"
        async with ApiClient(url) as client:
            with pytest.raises(ApiError):
                await client.list(SERVICES)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_command_refuses_options_that_make_no_sense() -> None:
    for options in (["--node-ports", "90000-1"], ["--service-cidrs", "nope"], ["--cert", "x"]):
        command = [sys.executable, "-m", "pointsman_lab.apiserver", *options]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, complaint = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert complaint
