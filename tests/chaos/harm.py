# SPDX-License-Identifier: Apache-2.0
"""How faults are done to a lab, and undone."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import yaml
from chaos.schedule import Fault, Harm

from pointsman_lab.errors import RemoteError

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

_LOSS_PERCENT = 30
_REDIS_BYTES = "256mb"
_REFUSED = 12
"""Watches that are refused: some of each watcher and of the lab's own controllers."""
_POISON = "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('SET', key, '\\255{[') end"
_REDIS_CALL = """
import json, sys
import redis
options = json.loads(sys.argv[2])
client = redis.Redis.from_url(sys.argv[1], socket_timeout=5, **options)
client.execute_command(*sys.argv[3:])
"""


async def begin(cluster: Cluster, fault: Fault) -> None:
    """Do it."""
    match fault.harm:
        case Harm.KILL:
            await _signal(cluster, fault.subject, "KILL")
        case Harm.END:
            await _signal(cluster, fault.subject, "TERM")
        case Harm.PAUSE:
            await _signal(cluster, fault.subject, "STOP")
        case Harm.PARTITION:
            await cluster.partition(fault.subject)
        case Harm.CUT:
            await cluster.cut(fault.subject, fault.peer)
        case Harm.LOSSY:
            await cluster.cut(fault.subject, fault.peer, percent=_LOSS_PERCENT)
        case Harm.CLOCK:
            cluster.step_clock(fault.subject, float(fault.peer))
        case Harm.EMPTIED:
            await _redis(cluster, "FLUSHALL")
        case Harm.POISONED:
            await _redis(cluster, "EVAL", _POISON, "0")
        case Harm.FULL:
            await _redis(cluster, "CONFIG", "SET", "maxmemory", "1")
        case _:
            await _api_server(cluster, fault)


async def end(cluster: Cluster, fault: Fault) -> None:
    """Undo it; what passes by itself passes by itself."""
    match fault.harm:
        case Harm.PAUSE:
            await _signal(cluster, fault.subject, "CONT")
        case Harm.PARTITION:
            await cluster.heal(fault.subject)
        case Harm.CUT | Harm.LOSSY:
            await cluster.mend(fault.subject)
        case Harm.FULL:
            await _redis(cluster, "CONFIG", "SET", "maxmemory", _REDIS_BYTES)
        case Harm.WATCHES_FROZEN | Harm.WATCHES_DELAYED:
            await cluster.clear_faults()
        case _:
            pass


async def make_whole(cluster: Cluster) -> None:
    """Everything runs, is connected, and holds nothing back."""
    for member in cluster.topology.members:
        await cluster.heal(member.name)
        await cluster.mend(member.name)
    for name in await cluster.processes():
        await _signal(cluster, name, "CONT")
    await asyncio.gather(*(_ready(cluster, name) for name in await cluster.processes()))
    await cluster.clear_faults()


async def _ready(cluster: Cluster, name: str) -> None:
    if (await cluster.processes())[name].state == "ended":
        # The supervisor waits longer each time before it starts a process again.
        await cluster.start_process(name)


async def _signal(cluster: Cluster, name: str, signal: str) -> None:
    try:
        await cluster.signal(name, signal)
    except RemoteError as error:
        if "does not run" not in str(error):
            raise


async def _api_server(cluster: Cluster, fault: Fault) -> None:
    fields: dict[Harm, tuple[str, dict[str, Any]]] = {
        Harm.WATCHES_DROPPED: ("drop-watches", {"resource": "", "abrupt": True}),
        Harm.WATCHES_FROZEN: ("freeze-watches", {"resource": ""}),
        Harm.WATCHES_DELAYED: ("delay-watches", {"resource": "", "seconds": 1.0}),
        Harm.HISTORY_LOST: ("compact", {"resource": ""}),
    }
    if fault.harm is Harm.WATCHES_REFUSED:
        await cluster.fault("refuse", count=_REFUSED, code=503, retry_after_seconds=1, verb="watch")
        await cluster.fault("drop-watches", resource="", abrupt=True)
        return
    name, values = fields[fault.harm]
    await cluster.fault(name, **values)


async def _redis(cluster: Cluster, *command: str) -> None:
    """A command to Redis as a planner would send it; when Redis is away, it is away."""
    text = (cluster.state.config / f"{cluster.topology.planners[0].name}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    files = config.get("redis", {})
    names = {"certFile": "ssl_certfile", "keyFile": "ssl_keyfile", "caFile": "ssl_ca_certs"}
    options = {names[key]: value for key, value in files.items()}
    argv = [sys.executable, "-c", _REDIS_CALL, config["redisURL"], json.dumps(options), *command]
    await cluster.execute("redis", argv)
