# SPDX-License-Identifier: Apache-2.0
"""The enforcer's side of StreamNodePlan over real gRPC, the whole enforcer on a kernel in memory."""

from __future__ import annotations

from pathlib import Path

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.digest import bucket_of
from pointsman_model.plan import ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_node import Node
from support.enforcer_plans import digest_of, key, numbered
from support.scripted_planner import eventually, scripted_planner

ONE = encode_service_plan(numbered(1))
TWO = encode_service_plan(numbered(2))


async def test_hello_then_transaction_then_ack_of_what_the_kernel_has(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        hello = await stream.welcome()
        assert (hello.node_name, hello.mode) == ("node-1", pb.PROXY_MODE_NFTABLES)
        assert len(hello.bucket_digests) == 1024
        assert set(hello.bucket_digests) == {0}
        assert hello.settings.detect_local == pb.DataplaneSettings.DETECT_LOCAL_CIDR
        await stream.send(1, {key(1): ONE})
        ack = (await stream.receive("ack")).ack
        assert (ack.nonce, ack.level, ack.position.revision) == (1, pb.ACK_LEVEL_PROGRAMMED, 1)
        assert ack.digest == ack.programmed_digest == digest_of({key(1): ONE})
        assert ack.statistics.kernel_bytes > 0
        assert node.vips() == {"172.30.0.1"}


async def test_a_transaction_that_changes_nothing_is_acknowledged_too(tmp_path: Path) -> None:
    async with scripted_planner() as planner, Node(tmp_path).enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        for nonce in (1, 2, 3):
            await stream.send(nonce, {key(1): ONE})
            assert (await stream.receive("ack")).ack.nonce == nonce


async def test_a_bad_service_is_named_and_everything_else_applied(tmp_path: Path) -> None:
    node = Node(tmp_path)
    teleport = encode_service_plan(ServicePlan(required_capabilities=("teleport",)))
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE, key(2): teleport, key(3): b"\xff"})
        nack = (await stream.receive("nack")).nack
        assert {(failure.service.name, failure.stage) for failure in nack.failures} == {
            ("svc-2", pb.ServiceFailure.STAGE_UNSUPPORTED),
            ("svc-3", pb.ServiceFailure.STAGE_DECODE),
        }
        ack = (await stream.receive("ack")).ack
        assert ack.digest == digest_of(stream.held)
        assert ack.programmed_digest == digest_of({key(1): ONE})
        assert node.vips() == {"172.30.0.1"}


async def test_losing_the_planner_removes_nothing_and_the_next_stream_resumes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE})
        await stream.receive("ack")
        stream.end()
        again = await planner.stream()
        assert node.vips() == {"172.30.0.1"}
        hello = await again.welcome()
        assert sum(hello.bucket_digests) % 2**64 == digest_of({key(1): ONE})
        assert hello.position.revision == 1
        again.held = {key(1): ONE}
        await again.send(1, {key(2): TWO})
        await again.receive("ack")
        assert node.vips() == {"172.30.0.1", "172.30.0.2"}


async def test_the_next_planner_is_tried_when_one_is_gone(tmp_path: Path) -> None:
    async with scripted_planner() as gone:
        address = gone.address
    async with scripted_planner() as planner, Node(tmp_path).enforcer(address, planner.address):
        stream = await planner.stream()
        await stream.welcome()


async def test_a_digest_that_differs_is_resynchronised_by_buckets(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        truth = {key(1): ONE}
        await stream.send(1, {key(1): ONE, key(2): TWO}, digest=digest_of(truth))
        resync = (await stream.receive("resync")).resync
        assert resync.bucket_digests[bucket_of(key(2))] == digest_of({key(2): TWO})
        assert (await stream.receive("ack")).ack.digest == digest_of({key(1): ONE, key(2): TWO})
        await stream.send(2, {}, replaced_buckets=[bucket_of(key(2))], digest=digest_of(truth))
        assert (await stream.receive("ack")).ack.programmed_digest == digest_of(truth)
        assert node.vips() == {"172.30.0.1"}


async def test_a_planner_that_breaks_a_rule_is_left_and_dialled_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE})
        await stream.receive("ack")
        await stream.send(2, {key(1): TWO}, part=3)
        again = await planner.stream()
        await eventually(lambda: stream.is_closed, "the broken stream is closed")
        assert node.vips() == {"172.30.0.1"}
        await again.welcome()


async def test_heartbeats_are_sent_and_a_silent_planner_is_left(tmp_path: Path) -> None:
    async with scripted_planner() as planner, Node(tmp_path).enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome(heartbeat_seconds=0.4)
        await stream.send(1, {key(1): ONE})
        await stream.receive("ack")
        beat = (await stream.receive("heartbeat")).heartbeat
        assert beat.digest == digest_of({key(1): ONE})
        assert beat.position.revision == 1
        await planner.stream()
        await eventually(lambda: stream.is_closed, "the silent stream is closed")


async def test_the_plan_on_disk_is_programmed_with_no_planner_at_all(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): ONE, key(2): TWO})
        await stream.receive("ack")
        await stream.send(2, {}, removals=(key(2),))
        await stream.receive("ack")
    rebooted = Node(tmp_path)
    async with rebooted.enforcer():
        await eventually(lambda: rebooted.vips() == {"172.30.0.1"}, "the plan on disk is in the kernel")


async def test_a_service_removed_while_the_enforcer_was_down_goes_once_the_planner_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner:
        async with node.enforcer(planner.address):
            stream = await planner.stream()
            await stream.welcome()
            await stream.send(1, {key(1): ONE, key(2): TWO})
            await stream.receive("ack")
        (tmp_path / "plan.log").unlink()
        async with node.enforcer(planner.address):
            stream = await planner.stream()
            await stream.welcome()
            assert node.vips() == {"172.30.0.1", "172.30.0.2"}, "nothing is removed before the plan is known"
            await stream.send(1, {key(1): ONE})
            await stream.receive("ack")
            assert node.vips() == {"172.30.0.1"}
