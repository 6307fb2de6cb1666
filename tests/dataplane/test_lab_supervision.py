# SPDX-License-Identifier: Apache-2.0
"""Processes of a lab: restart, stop, continue; traffic that counts what it lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from pointsman_lab.errors import RemoteError
from pointsman_lab.probe.outcome import Outcome, count_by_pod
from support.lab_cluster import lab, workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with lab(nodes=1, zones=1, services=("redis", "otlp")) as running:
        await running.apply_text(workload(replicas=2))
        await running.wait_deployed("default", "web")
        yield running


async def test_a_killed_process_comes_back(cluster: Cluster) -> None:
    first = (await cluster.processes())["redis"]
    await cluster.signal("redis", "KILL")

    async def is_back() -> bool:
        info = (await cluster.processes())["redis"]
        return info.restarts == first.restarts + 1 and info.pid not in (None, first.pid)

    await cluster.wait_until(is_back, "redis is back")
    await cluster.wait_process_ready("redis")


async def test_a_process_stays_away_when_told_and_comes_when_called(cluster: Cluster) -> None:
    await cluster.signal("redis", "KILL", restart=False)

    async def is_away() -> bool:
        return (await cluster.processes())["redis"].state == "ended"

    await cluster.wait_until(is_away, "redis is away")
    await cluster.start_process("redis")
    assert (await cluster.processes())["redis"].state == "running"


@pytest.mark.parametrize("number", ["KILL", "TERM"])
async def test_a_process_that_is_still_ending_is_waited_for_when_called(cluster: Cluster, number: str) -> None:
    first = (await cluster.processes())["redis"]
    await cluster.signal("redis", number, restart=False)
    await cluster.start_process("redis")
    info = (await cluster.processes())["redis"]
    assert info.state == "running"
    assert info.pid != first.pid


async def test_a_stopped_process_does_not_answer_until_it_continues(cluster: Cluster) -> None:
    await cluster.signal("redis", "STOP")
    assert (await cluster.processes())["redis"].state == "stopped"
    await cluster.signal("redis", "CONT")
    await cluster.wait_process_ready("redis")
    info = (await cluster.processes())["redis"]
    assert info.state == "running"
    assert info.resident_bytes > 1_000_000


async def test_an_unknown_process_signal_or_place_is_named(cluster: Cluster) -> None:
    with pytest.raises(RemoteError, match="no process 'nobody'; there are apiserver, prober, redis"):
        await cluster.signal("nobody", "KILL")
    with pytest.raises(RemoteError, match="no signal 'FOO'"):
        await cluster.signal("redis", "FOO")
    with pytest.raises(RemoteError, match="no network namespace 'nowhere'"):
        await cluster.connect("nowhere", "10.0.0.1", 80)
    with pytest.raises(RemoteError, match="there is no place 'node-9'"):
        await cluster.partition("node-9")


async def test_a_machine_of_the_control_plane_is_cut_from_the_peers_named_and_no_others(cluster: Cluster) -> None:
    redis = cluster.topology.redis.address

    async def outcomes(place: str) -> list[str]:
        return [(await cluster.connect(place, ip, 1, timeout_seconds=0.2)).outcome for ip in redis]

    await cluster.cut("redis", "node-1")
    assert await outcomes("node-1") == [Outcome.TIMEOUT] * 2
    assert await outcomes("outside") == [Outcome.REFUSED] * 2
    await cluster.cut("redis", "outside")
    assert await outcomes("node-1") == [Outcome.REFUSED] * 2
    assert await outcomes("outside") == [Outcome.TIMEOUT] * 2
    await cluster.mend("redis")
    assert await outcomes("outside") == [Outcome.REFUSED] * 2
    await cluster.partition("redis")
    assert await outcomes("node-1") == await outcomes("outside") == [Outcome.TIMEOUT] * 2
    await cluster.heal("redis")
    assert await outcomes("node-1") == [Outcome.REFUSED] * 2
    with pytest.raises(RemoteError, match="only machines of the control plane"):
        await cluster.cut("node-1", "redis")
    with pytest.raises(RemoteError, match="there is no place 'nowhere'"):
        await cluster.cut("redis", "nowhere")


async def test_a_part_of_the_packets_can_be_lost(cluster: Cluster) -> None:
    await cluster.cut("redis", "node-1", percent=50)
    address = cluster.topology.redis.address.ipv4
    probes = await cluster.probe("node-1", address, 1, count=200, concurrency=64, timeout_seconds=0.5)
    await cluster.mend("redis")
    seen = count_by_pod(probes)
    assert seen.keys() == {f"({Outcome.REFUSED})", f"({Outcome.TIMEOUT})"}
    # Of a question and its answer one is lost in three of four cases.
    assert 100 < seen[f"({Outcome.TIMEOUT})"] < 190


async def test_a_command_runs_in_its_place_and_is_killed_when_it_hangs(cluster: Cluster) -> None:
    result = await cluster.execute("node-1", ["sh", "-c", "cat; exit 3"], text="hello")
    assert (result.code, result.stdout) == (3, "hello")
    with pytest.raises(RemoteError, match="longer than"):
        await cluster.execute("node-1", ["sleep", "60"], timeout_seconds=0.2)


@pytest.mark.parametrize("persistent", [False, True])
async def test_traffic_counts_answers_and_failures(cluster: Cluster, persistent: bool) -> None:
    pod, other = await cluster.pods("default", app="web")
    address = pod["status"]["podIP"]
    async with cluster.traffic(
        f"default/{other['metadata']['name']}", address, 8080, persistent=persistent, timeout_seconds=0.5
    ) as traffic:
        first = await traffic.wait_answer_of(pod["metadata"]["name"])
        healthy = await traffic.report()
        assert healthy.failed == 0
        assert healthy.first_seen[pod["metadata"]["name"]] == first
        await cluster.kill_pod("default", pod["metadata"]["name"])

        async def has_failed_and_recovered() -> bool:
            report = await traffic.report()
            return report.failed > 0 and report.last_seen[pod["metadata"]["name"]] > report.failures[-1].at_seconds

        await cluster.wait_until(has_failed_and_recovered, "the restart is seen")
        await asyncio.sleep(0)
    assert traffic.last.running is False
    assert traffic.last.attempts == traffic.last.answered + traffic.last.failed
    assert {failure.outcome for failure in traffic.last.failures} <= {"refused", "reset"}
