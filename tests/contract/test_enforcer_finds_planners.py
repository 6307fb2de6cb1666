# SPDX-License-Identifier: Apache-2.0
"""How an enforcer finds planners when it knows of none: the API server over TLS, names, and its own memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.api_access import ApiAccess, ApiAccessError, kubeconfig, service_account
from pointsman_enforcer.core.planner_directory import Source
from pointsman_enforcer.feed.planner_lookup import PlannerFinder, resolve_name
from pointsman_enforcer.settings import PlannerLookupSettings
from pointsman_model.wire.plan import encode_service_plan
from support.certificates import Authority
from support.enforcer_node import Node
from support.enforcer_plans import digest_of, key, numbered
from support.scripted_planner import ScriptedPlanner, eventually, scripted_planner
from support.slice_server import NAME, TOKEN, SliceServer, slice_of

ONE = encode_service_plan(numbered(1))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SliceServer]:
    directory = tmp_path / "api"
    directory.mkdir()
    server = SliceServer(directory)
    async with server.running():
        yield server


async def look(settings: PlannerLookupSettings) -> list[str]:
    return await PlannerFinder(names=(), lookup=settings).look_up(Source.API_SERVER)


async def serve(planner: ScriptedPlanner, *candidates: pb.Candidate) -> pb.Hello:
    stream = await planner.stream()
    hello = await stream.welcome(planner_id="here", candidates=candidates)
    await stream.send(1, {key(1): ONE})
    assert (await stream.receive("ack")).ack.digest == digest_of({key(1): ONE})
    return hello


async def test_ready_planners_are_read_from_the_slices_of_their_service(server: SliceServer, tmp_path: Path) -> None:
    server.slices = [
        slice_of(["10.0.0.1:7444", "10.0.0.2:7444"]),
        slice_of(["10.0.0.3:7444"], conditions={"ready": False}),
        slice_of(["10.0.0.4:7444"], conditions={"ready": True, "terminating": True}),
        {**slice_of(["fd00:0:0::1:7444"]), "addressType": "IPv6"},
    ]
    settings = PlannerLookupSettings(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    assert await look(settings) == ["10.0.0.1:7444", "10.0.0.2:7444", "[fd00:0:0::1]:7444"]
    [asked] = server.asked
    assert asked.startswith("/apis/discovery.k8s.io/v1/namespaces/pointsman-system/endpointslices?")
    query = parse_qs(urlsplit(asked).query)
    assert query == {"labelSelector": ["kubernetes.io/service-name=pointsman-planner"], "resourceVersion": ["0"]}


async def test_planners_that_are_not_ready_are_better_than_none(server: SliceServer, tmp_path: Path) -> None:
    server.slices = [slice_of(["10.0.0.3:7444"], conditions={"ready": False})]
    settings = PlannerLookupSettings(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    assert await look(settings) == ["10.0.0.3:7444"]


async def test_the_service_account_of_the_pod_will_do_and_the_next_server_is_asked_when_one_is_gone(
    server: SliceServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "ca.crt").write_text(server.authority_file.read_text())
    access = service_account(("localhost:1", f"{NAME}:{server.address.rpartition(':')[2]}"), tmp_path)
    body = await asyncio.to_thread(access.get, "/x")
    assert json.loads(body)["items"] == []


def test_a_service_account_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    (tmp_path / "ca.crt").write_bytes(b"\xff")
    with pytest.raises(ApiAccessError, match="are text"):
        service_account(("10.0.0.1:6443",), tmp_path)


async def test_a_client_certificate_does_as_well_as_a_token(server: SliceServer, tmp_path: Path) -> None:
    server.slices = [slice_of(["10.0.0.1:7444"])]
    directory = server.authority_file.parent
    path = server.kubeconfig(
        tmp_path / "kubeconfig",
        **{
            "client-certificate": str(directory / f"{NAME}.cert.pem"),
            "client-key": str(directory / f"{NAME}.key.pem"),
        },
    )
    assert await look(PlannerLookupSettings(kubeconfig=str(path))) == ["10.0.0.1:7444"]


async def test_whatever_is_wrong_is_an_empty_answer_that_names_the_reason(server: SliceServer, tmp_path: Path) -> None:
    for user in ({"token": "wrong"}, {"exec": "plugin"}, {"tokenFile": "missing"}):
        path = server.kubeconfig(tmp_path / "kubeconfig", **user)
        assert await look(PlannerLookupSettings(kubeconfig=str(path))) == []
    assert await look(PlannerLookupSettings(kubeconfig=str(tmp_path / "absent"))) == []
    assert await look(PlannerLookupSettings(api_servers=("127.0.0.1:1",))) == []


async def test_a_server_that_answers_byte_by_byte_does_not_keep_the_node_from_asking_elsewhere(
    server: SliceServer, tmp_path: Path
) -> None:
    server.is_dripping = True
    settings = PlannerLookupSettings(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    finder = PlannerFinder(names=(), lookup=settings, slices_timeout_seconds=0.5)
    async with asyncio.timeout(10):
        assert await finder.look_up(Source.API_SERVER) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "a: [", "current-context: x", "current-context: x\ncontexts: 3"])
def test_a_file_that_is_no_kubeconfig_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ApiAccessError, match="kubeconfig"):
        kubeconfig(tmp_path / "kubeconfig")


async def test_a_server_of_another_authority_is_not_believed(server: SliceServer, tmp_path: Path) -> None:
    other = Authority("other").certificate.public_bytes(serialization.Encoding.PEM).decode()
    access = ApiAccess(servers=(f"https://{server.address}",), authority=other, server_name=NAME, token=TOKEN)
    with pytest.raises(ApiAccessError, match="certificate verify failed"):
        await asyncio.to_thread(access.get, "/x")


async def test_all_addresses_behind_names_are_found_and_a_name_without_any_costs_nothing() -> None:
    records = {"planner.example": ["10.0.0.1", "fd00::1", "10.0.0.2"], "more.example": ["10.0.0.2"]}

    async def resolve(host: str) -> list[str]:
        if host not in records:
            raise OSError("no such name")
        return records[host]

    names = ("planner.example:7402", "gone.example:7402", "more.example:7402")
    finder = PlannerFinder(names=names, lookup=PlannerLookupSettings(), resolve=resolve)
    assert await finder.look_up(Source.NAMES) == ["10.0.0.1:7402", "[fd00::1]:7402", "10.0.0.2:7402"]


async def test_the_resolver_of_the_node_is_asked() -> None:
    assert "127.0.0.1" in await resolve_name("localhost")
    assert await PlannerFinder(names=("a..b:1",), lookup=PlannerLookupSettings()).look_up(Source.NAMES) == []


async def test_a_cold_boot_needs_nothing_but_the_api_server_s_own_address(
    server: SliceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    node = Node(tmp_path / "state")
    lookup = PlannerLookupSettings(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    async with scripted_planner() as planner:
        server.slices = [slice_of([planner.address])]
        async with node.enforcer("127.0.0.1:1", "dns:nowhere.invalid:7402", planner_lookup=lookup):
            await serve(planner, planner.candidate("here"))
            assert node.vips() == {"172.30.0.1"}
            await eventually((node.directory / "planners.json").exists, "the planners are on disk")


async def test_a_name_is_asked_when_the_api_server_does_not_know(server: SliceServer, tmp_path: Path) -> None:
    lookup = PlannerLookupSettings(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    async with scripted_planner() as planner:
        port = planner.address.rpartition(":")[2]
        node = Node(tmp_path / "state")
        async with node.enforcer(f"dns:localhost:{port}", planner_lookup=lookup):
            await serve(planner)
        assert len(server.asked) == 1


async def test_after_a_restart_without_api_server_and_names_the_last_known_planner_is_found(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner:
        async with node.enforcer(planner.address):
            await serve(planner)
            await eventually((tmp_path / "planners.json").exists, "the planner is on disk")
        lookup = PlannerLookupSettings(api_servers=("127.0.0.1:1",))
        async with node.enforcer("127.0.0.1:1", "dns:nowhere.invalid:1", planner_lookup=lookup):
            hello = await serve(planner)
            assert sum(hello.bucket_digests) % 2**64 == digest_of({key(1): ONE})


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"known": 3}', b'{"known": ["unix:/x"]}', b"[" * 5000])
async def test_a_damaged_list_of_planners_is_no_hint_and_no_harm(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "planners.json").write_bytes(content)
    async with scripted_planner() as planner, Node(tmp_path).enforcer(planner.address):
        await serve(planner, planner.candidate("here"))
