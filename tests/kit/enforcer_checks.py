# SPDX-License-Identifier: Apache-2.0
"""The rules of StreamNodePlan about transactions, one check each, for an enforcer in any language.

A check talks to the enforcer through the kit's planner; the plan that it must hold then is in the book. Rules are
numbered as in the comment of `PlanService`. What the enforcer's kernel has is not looked at: its own tests do that.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from kit.bench import Bench
from kit.plan_book import BUCKETS, PlanBook, bucket_of, bulk, name_of, service_plan
from kit.verdicts import require
from pointsman.plan.v1 import plan_service_pb2 as pb

ONE, TWO, THREE = ("kit", "one"), ("kit", "two"), ("kit", "three")
_NONESUCH = "contract-kit-nonesuch"


async def hello(bench: Bench) -> None:
    stream = await bench.redial()
    said = stream.hello
    require(said.node_name, "hello.node_name is empty")
    require(said.instance_id, "hello.instance_id is empty")
    require(said.mode != pb.PROXY_MODE_UNSPECIFIED, "hello.mode is unspecified")
    require(len(said.bucket_digests) == BUCKETS, f"hello has {len(said.bucket_digests)} bucket digests, not {BUCKETS}")
    if bench.is_fresh:
        require(not any(said.bucket_digests), "an enforcer that holds no plan says that it holds one")


async def start_gate(bench: Bench) -> None:
    stream = bench.stream or await bench.redial()
    await bench.greet(stream)
    await stream.silence(3 * bench.interval_seconds, "before the first transaction")


async def admission(bench: Bench) -> None:
    stream = bench.stream or await bench.redial()
    await stream.silence(2 * bench.interval_seconds, "while the first transaction was delayed")


async def heartbeats(bench: Bench) -> None:
    stream = bench.stream or await bench.redial()
    require(len(stream.heartbeats) >= 2, f"{len(stream.heartbeats)} heartbeats in five intervals of silence")


async def parts(bench: Bench) -> None:
    stream = bench.stream or await bench.redial()
    book = PlanBook({ONE: service_plan(1), TWO: service_plan(2), **bulk(20, 100)})
    stream.nonce += 1
    first, second = stream.parts(book, book.held, 2)
    first.replaces_all = True
    await stream.write(pb.StreamNodePlanResponse(transaction=first))
    await stream.silence(0.5, "after a part without commit")
    await stream.write(pb.StreamNodePlanResponse(transaction=second))
    bench.book = book
    await bench.holds(stream, stream.nonce)


async def programmed(bench: Bench) -> None:
    stream = await bench.synced()
    bench.book.change({ONE: service_plan(1, 3)})
    ack = await bench.holds(stream, await stream.send(bench.book, {ONE: bench.book.held[ONE]}))
    require(ack.programmed_digest == ack.digest, "nothing was refused, and programmed_digest differs from digest")


async def empty_transaction(bench: Bench) -> None:
    stream = await bench.synced()
    await bench.holds(stream, await stream.send(bench.book, {}))


async def removals(bench: Bench) -> None:
    stream = await bench.synced()
    bench.book.change({THREE: service_plan(3)}, [TWO])
    await bench.holds(stream, await stream.send(bench.book, {THREE: bench.book.held[THREE]}, removals=[TWO]))


async def replaced_buckets(bench: Bench) -> None:
    stream = await bench.synced()
    bench.book.change({}, [THREE])
    await bench.holds(stream, await stream.send(bench.book, {}, replaced_buckets=[bucket_of(THREE)]))


async def replaces_all(bench: Bench) -> None:
    stream = await bench.synced()
    bench.book = PlanBook({ONE: service_plan(1), TWO: service_plan(2)})
    await bench.holds(stream, await stream.send(bench.book, bench.book.held, replaces_all=True))


async def window(bench: Bench) -> None:
    stream = await bench.synced()
    bench.book.change({ONE: service_plan(1, 4)})
    await stream.send(bench.book, {ONE: bench.book.held[ONE]})
    bench.book.change({TWO: service_plan(2, 4)})
    nonce = await stream.send(bench.book, {TWO: bench.book.held[TWO]})
    ack = await stream.acknowledged(nonce)
    require(ack.digest == bench.book.digest, "the second of two transactions does not lead to its digest")


async def resync(bench: Bench) -> None:
    stream = await bench.synced()
    lost = {("kit", "lost"): service_plan(50)}
    before = bench.book.buckets
    bench.book.change(lost | {ONE: service_plan(1, 5)})
    await stream.send(bench.book, {ONE: bench.book.held[ONE]})
    asked = (await stream.expect("resync")).resync
    require(len(asked.bucket_digests) == BUCKETS, f"resync has {len(asked.bucket_digests)} bucket digests")
    wanted = bench.book.buckets
    differing = [index for index in range(BUCKETS) if asked.bucket_digests[index] != wanted[index]]
    allowed = {index for index in range(BUCKETS) if before[index] != wanted[index]}
    require(bucket_of(("kit", "lost")) in differing, "resync claims to hold a service that was never sent")
    require(set(differing) <= allowed, "resync names buckets that nobody has touched")
    updates = {key: plan for key, plan in bench.book.held.items() if bucket_of(key) in differing}
    await bench.holds(stream, await stream.send(bench.book, updates, replaced_buckets=differing))


async def _refused(bench: Bench, plan: bytes, stages: set[pb.ServiceFailure.Stage.ValueType]) -> None:
    stream = await bench.synced()
    bench.book.change({("kit", "bad"): plan, ONE: service_plan(1, 6)})
    nonce = await stream.send(bench.book, {key: bench.book.held[key] for key in (("kit", "bad"), ONE)})
    ack: pb.Ack | None = None
    failures: list[pb.ServiceFailure] = []
    while ack is None or not failures:
        message = await stream.expect("ack", "nack")
        if message.WhichOneof("message") == "nack":
            failures.extend(message.nack.failures)
        elif message.ack.nonce >= nonce and message.ack.level >= pb.ACK_LEVEL_PROGRAMMED:
            ack = message.ack
    require(ack.digest == bench.book.digest, "ack.digest must cover the plan held, the refused service included")
    require(ack.programmed_digest != ack.digest, "programmed_digest claims that the refused service is in the kernel")
    named = [(failure.service.namespace, failure.service.name) for failure in failures]
    require(named == [("kit", "bad")], f"nack names {named}, and only kit/bad is bad")
    require(failures[0].stage in stages, f"nack.stage is {failures[0].stage}")
    require(failures[0].message, "nack says no reason")
    bench.book.change({("kit", "bad"): service_plan(60)})
    healed = await bench.holds(stream, await stream.send(bench.book, {("kit", "bad"): service_plan(60)}))
    while healed.programmed_digest != healed.digest:
        healed = await stream.acknowledged(stream.nonce)


async def unsupported(bench: Bench) -> None:
    await _refused(bench, service_plan(60, requires=_NONESUCH), {pb.ServiceFailure.STAGE_UNSUPPORTED})


async def undecodable(bench: Bench) -> None:
    await _refused(bench, b"\xff\xff\xff\xff no plan", {pb.ServiceFailure.STAGE_DECODE})


async def illegal(bench: Bench) -> None:
    plan = pb.ServicePlan.FromString(service_plan(60))
    plan.ports[0].endpoint_sets[0].weights.extend([1, 0])
    stages = {pb.ServiceFailure.STAGE_DECODE, pb.ServiceFailure.STAGE_UNSUPPORTED}
    await _refused(bench, plan.SerializeToString(deterministic=True), stages)


async def heartbeat_digest(bench: Bench) -> None:
    stream = await bench.synced()
    count = len(stream.heartbeats)
    deadline = time.monotonic() + 5 * bench.interval_seconds
    while len(stream.heartbeats) == count:
        require(time.monotonic() < deadline, "no heartbeat within five intervals")
        await asyncio.sleep(0.05)
    said = stream.heartbeats[-1].digest
    require(said == bench.book.digest, f"heartbeat.digest is {said:x}, the plan held has {bench.book.digest:x}")


async def affinity(bench: Bench) -> None:
    stream = await bench.synced()
    message = pb.StreamNodePlanResponse()
    for key in (ONE, ("kit", "never-heard-of")):
        entry = message.affinity.entries.add(service=name_of(key), port_name="http", protocol=6)
        entry.client, entry.endpoint_address = bytes((198, 18, 255, 1)), bytes((198, 19, 1, 1))
        entry.endpoint_port = 8080
        entry.remaining.seconds = 60
    await stream.write(message)
    await bench.holds(stream, await stream.send(bench.book, {}))


async def unknown_fields(bench: Bench) -> None:
    stream = await bench.synced()
    await stream.write(pb.StreamNodePlanResponse.FromString(b"\xc2\x3e\x03abc"))
    await bench.holds(stream, await stream.send(bench.book, {}))


CHECKS: Final = (
    ("1", "hello comes first, names the node and the mode, and has 1024 bucket digests", hello),
    ("2", "after welcome the enforcer waits for the first transaction, and sends nothing but heartbeats", start_gate),
    ("14", "a delayed first transaction is waited for", admission),
    ("10", "the enforcer sends heartbeats when it says nothing else", heartbeats),
    ("3", "only the last part of a transaction is acknowledged", parts),
    ("7", "a transaction is acknowledged as programmed, with the digest of what the kernel has", programmed),
    ("7", "a transaction that changes nothing is acknowledged too", empty_transaction),
    ("4", "services named in removals go, and others stay", removals),
    ("4", "a replaced bucket loses what is not named in updates", replaced_buckets),
    ("4", "replaces_all leaves only what is named in updates", replaces_all),
    ("9", "two transactions may be under way, and both are reached", window),
    (
        "6",
        "a digest that does not come out is answered by resync with the buckets held, and repaired",
        resync,
    ),
    (
        "8",
        "a service that requires an unknown capability is nacked, and the rest is programmed",
        unsupported,
    ),
    ("8", "a service whose plan cannot be decoded is nacked, and the rest is programmed", undecodable),
    (
        "8",
        "a plan that breaks a rule (an endpoint of weight 0) is nacked, and the rest is programmed",
        illegal,
    ),
    ("10", "a heartbeat of the enforcer says the digest of the plan it holds", heartbeat_digest),
    ("15", "affinity entries, of services unknown too, disturb nothing", affinity),
    ("-", "fields that the enforcer does not know are ignored (proto/README.md)", unknown_fields),
)
"""Rule, fact and check, in the order in which they are run."""
