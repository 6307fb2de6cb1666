# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: talks to its IPVS, and prints one JSON object with what was seen."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServer,
    RealServerId,
    ServiceFlags,
    Timeouts,
    VirtualServer,
    VirtualServerId,
)
from pointsman_model.names import Family, Protocol

_PORT = 8080
_MANY = 1000


def _real(family: Family, number: int, weight: int = 1) -> RealServer:
    start = bytes((10, 1)) if family is Family.IPV4 else bytes((0xFD, 1)).ljust(14, b"\0")
    return RealServer(RealServerId(start + number.to_bytes(2, "big"), _PORT), weight)


def _servers() -> list[VirtualServer]:
    vip, vip6 = bytes((10, 96, 0, 1)), bytes((0xFD, 0x10)).ljust(15, b"\0") + b"\1"
    return [
        VirtualServer(id=VirtualServerId(Family.IPV4, 0, Protocol.TCP, vip, 80)),
        VirtualServer(
            id=VirtualServerId(Family.IPV4, 0, Protocol.UDP, vip, 53),
            scheduler="mh",
            flags=ServiceFlags.MH_FALLBACK | ServiceFlags.MH_PORT,
        ),
        VirtualServer(
            id=VirtualServerId(Family.IPV6, 0, Protocol.SCTP, vip6, 9),
            scheduler="wlc",
            flags=ServiceFlags.PERSISTENT,
            timeout_seconds=10800,
        ),
        VirtualServer(id=VirtualServerId(Family.IPV4, 77), scheduler="sh", flags=ServiceFlags.SH_PORT),
        VirtualServer(id=VirtualServerId(Family.IPV6, 78), scheduler="wrr"),
    ]


def main() -> None:
    """Make servers, refuse some, read back, compare with ipvsadm, count and time sends."""
    with IpvsChannel() as channel:
        servers = _servers()
        batch = [message.new_service(server) for server in servers]
        batch += [message.new_dest(server.id, _real(server.id.family, 1, 3)) for server in servers]
        seen: dict[str, object] = {"refused": [str(each) for each in channel.send(batch)]}
        seen["ipvsadm"] = subprocess.run(["ipvsadm", "-Sn"], capture_output=True, text=True, check=True).stdout
        seen["same"] = sorted(channel.services(), key=str) == sorted(servers, key=str)
        seen["reals"] = [channel.dests(server.id) == [_real(server.id.family, 1, 3)] for server in servers]
        missing = VirtualServerId(Family.IPV4, 5)
        again = [
            message.new_service(servers[0]),
            message.set_dest(servers[0].id, _real(Family.IPV4, 1, 0)),
            message.delete_dest(servers[0].id, _real(Family.IPV4, 9).id),
            message.delete_service(missing),
        ]
        seen["errors"] = [(each.number, str(each)) for each in channel.send(again)]
        seen["drained"] = channel.dests(servers[0].id)[0].weight
        channel.send([message.set_timeouts(Timeouts(tcp=1000, udp=99))])
        seen["timeouts"] = channel.timeouts()
        seen["version"] = channel.info().version
        seen["nobody"] = channel.dests(missing)
        seen |= _costs(channel, servers[0].id)
    sys.stdout.write(json.dumps(seen) + "\n")


def _costs(channel: IpvsChannel, server: VirtualServerId) -> dict[str, object]:
    """System calls and microseconds for each of many real servers, in one go and one by one."""
    reals = [_real(Family.IPV4, number) for number in range(1000, 1000 + _MANY)]
    channel.sends = 0
    started = time.perf_counter()
    channel.send([message.new_dest(server, real) for real in reals])
    together, sends = time.perf_counter() - started, channel.sends
    channel.send([message.delete_dest(server, real.id) for real in reals])
    started = time.perf_counter()
    for real in reals:
        channel.send([message.new_dest(server, real)])
    one_by_one = time.perf_counter() - started
    return {"sends": sends, "microseconds": [round(each / _MANY * 1e6) for each in (together, one_by_one)]}


if __name__ == "__main__":
    main()
