# SPDX-License-Identifier: Apache-2.0
"""Rules of others stay as they are, whatever Pointsman does and however it leaves."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import pytest

from pointsman_lab.probe.outcome import Outcome
from support.lab_kernel import ruleset
from support.lab_process import bring_back, take_away, wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

NODE = "node-2"
ENFORCER = f"enforcer-{NODE}"
FOREIGN = {
    "inet": "pointsmanlike",
    "ip": "kube-proxy",
    "ip6": "pointsman-other",
    "bridge": "pointsman",
}
SCRIPT = """
table inet pointsmanlike {
  set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
  map ports { type inet_service : verdict; elements = { 9999 : drop } }
  chain input { type filter hook input priority 0; ip saddr @blocked drop; tcp dport vmap @ports; }
}
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain services { type nat hook prerouting priority -90; ip daddr . meta l4proto . th dport vmap @service-ips; }
}
table ip6 pointsman-other {
  chain forward { type filter hook forward priority 5; counter; }
}
table bridge pointsman {
  chain forward { type filter hook forward priority 5; counter; }
}
"""


async def foreign_tables(world: World) -> dict[str, str]:
    return {
        f"{family} {name}": await world.cluster.node_exec(
            NODE, "nft", "--stateless", "--handle", "list", "table", family, name
        )
        for family, name in FOREIGN.items()
    }


async def add_foreign_tables(world: World) -> dict[str, str]:
    result = await world.cluster.execute(NODE, ["nft", "-f", "-"], text=SCRIPT)
    assert result.code == 0, result.stderr
    await world.cluster.node_exec(NODE, "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "ACCEPT")
    return {
        **await foreign_tables(world),
        "iptables": await world.cluster.node_exec(NODE, "iptables-save", "-t", "nat"),
    }


async def remove_foreign_tables(world: World) -> None:
    for family, name in FOREIGN.items():
        await world.cluster.node_exec(NODE, "nft", "delete", "table", family, name)
    await world.cluster.node_exec(NODE, "iptables", "-t", "nat", "-F")


async def now(world: World) -> dict[str, str]:
    saved = await world.cluster.node_exec(NODE, "iptables-save", "-t", "nat")
    return {**await foreign_tables(world), "iptables": saved}


def without_time(tables: dict[str, str]) -> dict[str, str]:
    """iptables-save writes the time into comments."""
    lines = tables["iptables"].splitlines()
    return {**tables, "iptables": "\n".join(line for line in lines if not line.startswith(("#", ":")))}


async def test_foreign_rules_outlive_churn_restart_and_cleanup(world: World) -> None:
    cluster = world.cluster
    before = without_time(await add_foreign_tables(world))
    try:
        vip = (await world.service(type="LoadBalancer"))["spec"]["clusterIP"]
        chance = random.Random(3)
        for _ in range(20):
            await world.endpoints(chance.sample(world.backends, chance.randint(0, 3)))
        await world.endpoints(world.backends)
        await world.expect_everywhere(vip, world.backends)
        await wait_synced(cluster)
        assert without_time(await now(world)) == before

        await take_away(cluster, ENFORCER, "killed")
        await bring_back(cluster, ENFORCER)
        await wait_synced(cluster)
        assert without_time(await now(world)) == before

        await take_away(cluster, ENFORCER, "ended")
        config = cluster.state.config / f"{ENFORCER}.yaml"
        command = (sys.executable, "-m", "pointsman_enforcer", "--config", str(config), "--cleanup")
        await cluster.node_exec(NODE, *command)
        assert without_time(await now(world)) == before
        tables = (await cluster.node_exec(NODE, "nft", "list", "tables")).splitlines()
        assert not {"table ip pointsman", "table ip6 pointsman"} & set(tables)
        assert not list((cluster.state.nodes / NODE).glob("plan*"))
        await world.expect(world.client(NODE), vip, Outcome.TIMEOUT)
        left = await ruleset(cluster, NODE)
        await cluster.node_exec(NODE, *command)
        assert await ruleset(cluster, NODE) == left, "a second cleanup finds nothing"

        await bring_back(cluster, ENFORCER)
        await world.expect_everywhere(vip, world.backends)
        await wait_synced(cluster)
        assert without_time(await now(world)) == before
    finally:
        await remove_foreign_tables(world)
