# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: programs services through the IPVS dataplane, and prints one JSON object with what was seen.

An argument is the number of services, 1,000 without one.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from pointsman_enforcer.dataplane.base import Found
from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import Family, Protocol
from pointsman_model.plan import (
    Action,
    Frontend,
    FrontendKind,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)

_FACTS = NodeFacts(name="node", addresses=(bytes((192, 168, 0, 2)),))
_SERVICES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
_GROUP = 100
"""Services in one change, as in the enforcer."""
_FOREIGN = "192.0.2.1:80"
_FORWARD = Verdict(Action.FORWARD)


def _plan(number: int, endpoints: int = 10) -> ServicePlan:
    vip = bytes((10, 96)) + number.to_bytes(2, "big")
    frontend = Frontend(FrontendKind.CLUSTER_IP, vip, 80, _FORWARD, _FORWARD, _FORWARD)
    chosen = tuple(PlanEndpoint(bytes((10, 100 + last)) + number.to_bytes(2, "big"), 8080) for last in range(endpoints))
    port = ServicePortPlan(
        name="", protocol=Protocol.TCP, family=Family.IPV4, frontends=(frontend,), endpoint_sets=(chosen,)
    )
    return ServicePlan(ports=(port,))


def _ipvsadm(*arguments: str) -> str:
    return _run_tool("ipvsadm", *arguments)


def _run_tool(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _servers() -> int:
    return _ipvsadm("-Sn").count("-A -f ")


async def _program(dataplane: IpvsDataplane, old: dict[int, bytes], plans: dict[int, ServicePlan]) -> dict[int, bytes]:
    change = dataplane.diff(b"", b"")
    new = {number: dataplane.render(plan, old.get(number, b"")) for number, plan in plans.items()}
    for number in old.keys() | new.keys():
        change.include(dataplane.diff(old.get(number, b""), new.get(number, b"")))
    await dataplane.apply(change)
    return new


def _resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / (1 << 20), 1)


async def _program_all(dataplane: IpvsDataplane, plans: dict[int, ServicePlan]) -> dict[int, bytes]:
    numbers = list(plans)
    have: dict[int, bytes] = {}
    for start in range(0, len(numbers), _GROUP):
        group = {number: plans[number] for number in numbers[start : start + _GROUP]}
        have |= await _program(dataplane, {}, group)
    return have


async def _run() -> dict[str, object]:
    _ipvsadm("-A", "-t", _FOREIGN, "-s", "rr")
    dataplane = IpvsDataplane(node_settings=NodeSettings())
    dataplane.configure(_FACTS)
    seen: dict[str, object] = {"first": (await dataplane.observe()).name}
    await dataplane.prepare()
    plans = {number: _plan(number) for number in range(1, _SERVICES + 1)}
    empty = _resident_mib()
    started = time.perf_counter()
    have = await _program_all(dataplane, plans)
    seen["cold_start_ms"] = round((time.perf_counter() - started) * 1000)
    seen["mib"] = [empty, _resident_mib()]
    seen["servers"] = _servers()
    started = time.perf_counter()
    await _program(dataplane, {7: have[7]}, {7: _plan(7, 9)})
    seen["one_change_ms"] = round((time.perf_counter() - started) * 1000, 1)
    seen["reals"] = _ipvsadm("-Sn").count("-a -f ")
    await dataplane.mend([], may_remove=False)
    started = time.perf_counter()
    seen["looked"] = (await dataplane.mend([], may_remove=False)).objects
    seen["look_ms"] = round((time.perf_counter() - started) * 1000, 1)
    dataplane.close()
    again = IpvsDataplane(node_settings=NodeSettings())
    again.configure(_FACTS)
    seen["again"] = await again.observe() is Found.OURS
    differences = [again.diff(again.claim(plan, b""), again.render(plan, b"")) for plan in plans.values()]
    seen["adopted"] = sum(not (change.additions or change.removals) for change in differences)
    await again.cleanup()
    again.close()
    seen["foreign"] = _ipvsadm("-Sn").strip()
    seen["sets"] = _run_tool("ipset", "list", "-n")
    seen["rules"] = _run_tool("iptables-legacy-save")
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_run())) + "\n")
