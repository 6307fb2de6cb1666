# SPDX-License-Identifier: Apache-2.0
"""Whoever may tell an enforcer where planners are: the file on disk, the API server, a kubeconfig, other planners."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json, mutated_message
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.api_access import ApiAccess, ApiAccessError, kubeconfig
from pointsman_enforcer.core.candidates import CANDIDATES_MAX, candidates_from_pb, is_address, redirect_from_pb
from pointsman_enforcer.core.dialing import Action, Dialer, Ending, Open
from pointsman_enforcer.core.planner_directory import REMEMBERED_MAX, PlannerDirectory
from pointsman_enforcer.disk.planner_file import load_planners
from pointsman_enforcer.feed.planner_lookup import addresses_of

_MEMORY = {"candidates": [{"address": "10.0.0.1:7402", "id": "a"}], "known": ["10.0.0.2:7402", "[fd00::1]:7402"]}
_SLICES = {
    "items": [
        {
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}, {"addresses": ["10.0.0.2"]}],
            "ports": [{"name": "grpc", "port": 7402}],
        },
        {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": [{"name": "grpc", "port": 1}]},
    ]
}
_KUBECONFIG = {
    "current-context": "here",
    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "tls-server-name": "api"}}],
    "users": [{"name": "u", "user": {"token": "t", "client-key-data": base64.b64encode(b"key").decode()}}],
}
_REDIRECT = pb.Redirect(
    candidates=[pb.Candidate(planner_id=name, address=f"10.0.0.{n}:7402") for n, name in enumerate("ab")],
    reason=pb.Redirect.REASON_DRAINING,
)


def _documents(sound: Any) -> st.SearchStrategy[bytes]:
    whole = mutated_json(sound).map(lambda value: json.dumps(value).encode())
    return st.one_of(whole, mutated_bytes(st.just(json.dumps(sound).encode())), st.binary(max_size=64))


def _check_memory(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "planners.json").write_bytes(data)
        memory = load_planners(Path(directory))
    assert len(memory.told) <= CANDIDATES_MAX
    assert len(memory.remembered) <= REMEMBERED_MAX
    assert all(is_address(address) for address in (*memory.remembered, *(each.address for each in memory.told)))


def _check_slices(data: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        assert all(map(is_address, addresses_of(data, "grpc")))


def _check_kubeconfig(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kubeconfig"
        path.write_bytes(data)
        with contextlib.suppress(ApiAccessError):
            assert isinstance(kubeconfig(path), ApiAccess)


def _check_redirects(messages: list[pb.Redirect]) -> None:
    """Whatever they say, each event costs one attempt at most, and nothing but addresses is dialled."""
    dialer = Dialer(PlannerDirectory(node="n", configured=["10.9.9.9:1"]), random=Random(1))
    now = 0.0
    _check_actions(dialer, dialer.begin(now))
    for message in messages:
        now = max(now, min(dialer.next_tick(), now + 1e6))
        _check_actions(dialer, dialer.tick(now))
        for number in dialer.streams:
            _check_actions(dialer, dialer.welcomed(number, "p", candidates_from_pb(message.candidates), now))
            _check_actions(dialer, dialer.redirected(number, redirect_from_pb(message), now))
            _check_actions(dialer, dialer.ended(number, Ending.LOST, now))


def _check_actions(dialer: Dialer, actions: list[Action]) -> None:
    opened = [each for each in actions if isinstance(each, Open)]
    assert len(opened) <= 1
    assert all(is_address(each.target.address) for each in opened)
    assert len(dialer.streams) <= 2


TARGETS = (
    Target(name="enforcer: planners on disk", values=_documents(_MEMORY), check=_check_memory),
    Target(name="enforcer: slices of planners", values=_documents(_SLICES), check=_check_slices),
    Target(name="enforcer: kubeconfig", values=_documents(_KUBECONFIG), check=_check_kubeconfig),
    Target(
        name="enforcer: redirects",
        values=st.lists(mutated_message(st.just(_REDIRECT)), max_size=6),
        check=_check_redirects,
    ),
)
