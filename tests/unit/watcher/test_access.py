# SPDX-License-Identifier: Apache-2.0
"""Configuration and credentials as the kubernetes client reads them, against real servers."""

import json
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tls import TransportSecurity
from pointsman_watcher.kube.client import KubeClient
from pointsman_watcher.kube.config import REFRESH_SECONDS, Access
from pointsman_watcher.kube.errors import UnansweredError
from pointsman_watcher.settings import KubernetesSettings
from support.certificates import Authority
from support.scripted_api_server import ScriptedApiServer, write_kubeconfig

PLUGIN = """#!/bin/sh
echo run >> {log}
echo '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{status}}}'
"""


@pytest.fixture
def kubeconfig(api_server: ScriptedApiServer, tmp_path: Path) -> Path:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.headers.get("Authorization", "none"))

    api_server.lists = [echo]
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, api_server.url)
    return path


async def authorization(access: Access) -> str:
    """What the server was told."""
    return (await KubeClient(access, KubernetesSettings()).read_page("/x", [])).decode()


def replace_text(path: Path, text: str) -> None:
    path.write_text(text)


def rotate(present: TransportSecurity, successor: TransportSecurity) -> None:
    """Put the successor's certificate and key where the present ones are."""
    Path(successor.cert_file).replace(present.cert_file)
    Path(successor.key_file).replace(present.key_file)


async def test_a_token_of_the_kubeconfig_is_sent(api_server: ScriptedApiServer, kubeconfig: Path) -> None:
    write_kubeconfig(kubeconfig, api_server.url, {"token": "abc"})
    access = Access(kubeconfig=str(kubeconfig), context="", clock=VirtualClock())
    assert await authorization(access) == "Bearer abc"
    await access.close()


async def test_no_credentials_are_anonymous(kubeconfig: Path) -> None:
    access = Access(kubeconfig=str(kubeconfig), context="", clock=VirtualClock())
    assert await authorization(access) == "none"
    await access.close()


async def test_a_rotated_token_file_is_read_within_a_minute_or_at_once_after_401(
    api_server: ScriptedApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    write_kubeconfig(kubeconfig, api_server.url, {"tokenFile": "token"})
    clock = VirtualClock()
    access = Access(kubeconfig=str(kubeconfig), context="", clock=clock)
    assert await authorization(access) == "Bearer first"
    token.write_text("second")
    assert await authorization(access) == "Bearer first"
    await clock.advance(REFRESH_SECONDS + 1)
    assert await authorization(access) == "Bearer second"
    token.write_text("third")
    access.doubt()
    assert await authorization(access) == "Bearer third"
    await access.close()


async def test_credentials_that_become_unreadable_do_not_end_access(
    api_server: ScriptedApiServer, kubeconfig: Path
) -> None:
    write_kubeconfig(kubeconfig, api_server.url, {"token": "abc"})
    access = Access(kubeconfig=str(kubeconfig), context="", clock=VirtualClock())
    assert await authorization(access) == "Bearer abc"
    replace_text(kubeconfig, "{")
    access.doubt()
    assert await authorization(access) == "Bearer abc"
    await access.close()


@pytest.mark.parametrize(("expiry", "runs"), [("", 2), (',"expirationTimestamp":"2999-01-01T00:00:00Z"', 1)])
async def test_an_exec_plugin_is_run_again_only_when_its_credential_may_be_over(
    api_server: ScriptedApiServer, kubeconfig: Path, tmp_path: Path, expiry: str, runs: int
) -> None:
    plugin, log = tmp_path / "plugin", tmp_path / "log"
    plugin.write_text(PLUGIN.format(log=log, status=f'{{"token":"from-plugin"{expiry}}}'))
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    exec_user = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
    write_kubeconfig(kubeconfig, api_server.url, {"exec": exec_user})
    clock = VirtualClock()
    access = Access(kubeconfig=str(kubeconfig), context="", clock=clock)
    assert await authorization(access) == "Bearer from-plugin"
    await clock.advance(REFRESH_SECONDS + 1)
    assert await authorization(access) == "Bearer from-plugin"
    assert len(log.read_text().splitlines()) == runs
    await access.close()


async def test_an_exec_plugin_that_fails_is_a_clear_error(api_server: ScriptedApiServer, kubeconfig: Path) -> None:
    exec_user = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}
    write_kubeconfig(kubeconfig, api_server.url, {"exec": exec_user})
    with pytest.raises(ConfigError, match="exec credential plugin"):
        await Access(kubeconfig=str(kubeconfig), context="", clock=VirtualClock()).check()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", '{"current-context":"x"}', '{"current-context":"x","contexts":[],"clusters":[]}',
     '{"current-context":"x","contexts":[{"name":"x","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{}}]}',
     '{"current-context":"x","contexts":[{"name":"x","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"ftp://x"}}]}'],
)  # fmt: skip
async def test_a_wrong_kubeconfig_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await Access(kubeconfig=str(path), context="", clock=VirtualClock()).check()
    assert str(path) in str(caught.value) or "no http(s) URL" in str(caught.value)


async def test_a_missing_kubeconfig_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"give kubernetes\.kubeconfig or --kubeconfig"):
        await Access(kubeconfig=str(tmp_path / "none"), context="", clock=VirtualClock()).check()


async def test_an_unknown_context_is_named(api_server: ScriptedApiServer, kubeconfig: Path) -> None:
    with pytest.raises(ConfigError, match="other"):
        await Access(kubeconfig=str(kubeconfig), context="other", clock=VirtualClock()).check()


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[tuple[str, Authority]]:
    """An HTTPS server that demands a client certificate and answers with its common name."""
    authority = Authority("test authority")
    own = authority.issue(tmp_path, "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=own.ca_file)
    context.load_cert_chain(own.cert_file, own.key_file)
    context.verify_mode = ssl.CERT_REQUIRED

    async def who(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        subject = dict(pair[0] for pair in request.transport.get_extra_info("peercert")["subject"])
        return web.Response(text=subject["commonName"])

    application = web.Application()
    application.router.add_get("/x", who)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}", authority
    await runner.cleanup()


async def test_client_certificates_are_presented_and_picked_up_when_rotated(
    tls_server: tuple[str, Authority], tmp_path: Path
) -> None:
    url, authority = tls_server
    first = authority.issue(tmp_path, "watcher-1")
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, url, {"client-certificate": first.cert_file, "client-key": first.key_file})
    document = json.loads(path.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = first.ca_file
    path.write_text(json.dumps(document))
    access = Access(kubeconfig=str(path), context="", clock=VirtualClock())
    assert await authorization(access) == "watcher-1"
    second = authority.issue(tmp_path, "watcher-2")
    rotate(first, second)
    access.doubt()
    assert await authorization(access) == "watcher-2"
    await access.close()


async def test_the_service_account_of_a_pod_is_used_and_its_token_followed(
    tls_server: tuple[str, Authority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = tls_server
    token = tmp_path / "token"
    token.write_text("pod-token")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
    monkeypatch.setattr("kubernetes.aio.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    ca_file = authority.issue(tmp_path, "localhost").ca_file
    monkeypatch.setattr("kubernetes.aio.config.incluster_config.SERVICE_CERT_FILENAME", ca_file)
    access = Access(kubeconfig="", context="", clock=VirtualClock())
    transport, server, headers = await access.acquire()
    assert server == url
    assert headers["Authorization"].lower() == "bearer pod-token"
    replace_text(token, "next-token")
    access.doubt()
    same, _, headers = await access.acquire()
    assert headers["Authorization"].lower() == "bearer next-token"
    assert same is transport
    await access.close()


async def test_a_server_of_another_authority_is_not_trusted(tls_server: tuple[str, Authority], tmp_path: Path) -> None:
    url, _ = tls_server
    folder = tmp_path / "other"
    folder.mkdir()
    other = Authority("other authority").issue(folder, "x")
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, url)
    document = json.loads(path.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = other.ca_file
    path.write_text(json.dumps(document))
    access = Access(kubeconfig=str(path), context="", clock=VirtualClock())
    with pytest.raises(UnansweredError, match="certificate"):
        await authorization(access)
    await access.close()
