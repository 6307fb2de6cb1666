# SPDX-License-Identifier: Apache-2.0
"""Acks of all levels over real gRPC: on disk, in the kernel, read back from the kernel; and what becomes of a lie."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.dataplane.nftables.message import Batch, Family
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_node import Node
from support.enforcer_plans import digest_of, key, load_balancer, numbered
from support.scripted_planner import scripted_planner

ONE, TWO = (encode_service_plan(numbered(number)) for number in (1, 2))
TABLE = (Family.IPV4, "pointsman")


async def test_what_was_programmed_is_read_back_by_key_and_acknowledged_as_verified(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE, key(2): encode_service_plan(load_balancer())})
        await stream.receive("ack")
        dumps = node.kernel.counters.dumps
        ack = (await stream.receive("verified")).ack
        assert (ack.nonce, ack.position.revision) == (1, 1)
        assert ack.digest == ack.programmed_digest == digest_of(stream.held)
        assert node.kernel.counters.dumps == dumps, "nothing is listed"
        first = node.kernel.counters.gets
        await stream.send(2, {key(1): TWO})
        await stream.receive("ack")
        assert (await stream.receive("verified")).ack.nonce == 2
        assert 0 < node.kernel.counters.gets - first < first, "only what changed is read"


async def test_what_the_kernel_lost_unnoticed_is_nacked_repaired_and_verified(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE, key(2): TWO})
        await stream.receive("ack")
        lost = node.kernel.tables[TABLE].sets["endpoints"]
        before = dict(lost)
        lost.popitem()
        nack = (await stream.receive("nack")).nack
        [failure] = nack.failures
        assert failure.stage == pb.ServiceFailure.STAGE_VERIFY
        assert "endpoints" in failure.message
        ack = (await stream.receive("ack")).ack
        assert (ack.nonce, ack.digest) == (0, digest_of(stream.held))
        assert ack.programmed_digest != ack.digest
        healed = (await stream.receive("ack")).ack
        assert healed.programmed_digest == healed.digest == digest_of(stream.held)
        assert [each.name for each in healed.recovered] == [failure.service.name]
        assert healed.drift.objects == 1
        verified = (await stream.receive("verified")).ack
        assert verified.programmed_digest == verified.digest
        assert node.kernel.tables[TABLE].sets["endpoints"] == before


async def test_a_transaction_that_waits_for_the_kernel_is_said_to_be_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, gate = Node(tmp_path), asyncio.Event()
    commit = node.kernel.commit

    async def slow(batch: Batch) -> None:
        await gate.wait()
        await commit(batch)

    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE})
        await stream.receive("ack")
        monkeypatch.setattr(node.kernel, "commit", slow)
        await stream.send(2, {key(2): TWO})
        ack = (await stream.receive("received")).ack
        assert (ack.nonce, ack.digest) == (2, digest_of(stream.held))
        assert ack.programmed_digest == digest_of({key(1): ONE})
        gate.set()
        assert (await stream.receive("ack")).ack.nonce == 2
        assert (await stream.receive("verified")).ack.nonce == 2
