# SPDX-License-Identifier: Apache-2.0
"""A process that serves one Service with the rootless dataplane and asks it, for tests of what it needs to be allowed.

    rootless_main.py <cluster IP> <port> [<local address to listen at instead>]

Prints, as JSON, its effective capabilities and who answered a TCP and a UDP client.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path

from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.rootless import RootlessDataplane
from pointsman_model.names import Protocol, parse_address
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import cluster_ip, endpoints

SERVER, SERVER_PORT = "127.0.0.1", 18080
PATIENCE_SECONDS = 10.0


def answer_one(tcp: socket.socket, udp: socket.socket) -> None:
    """Each protocol's first client is answered."""
    accepted, _ = tcp.accept()
    with accepted:
        accepted.sendall(b"tcp " + accepted.recv(100))
    data, client = udp.recvfrom(100)
    udp.sendto(b"udp " + data, client)


def ask(kind: socket.SocketKind, place: tuple[str, int]) -> str:
    """What comes back."""
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect(place)
        client.send(b"who?")
        return client.recv(100).decode()


def capabilities() -> int:
    """The effective ones, as bits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))


def main(vip: str, port: int, place: str = "") -> None:
    """Serve, ask, print."""
    places = {parse_address(vip): parse_address(place)} if place else {}
    dataplane = RootlessDataplane(node_settings=NodeSettings(), places=places)
    chosen = endpoints(SERVER, port=SERVER_PORT)
    plan = ServicePlan(ports=tuple(cluster_ip(vip, port, chosen, each) for each in (Protocol.TCP, Protocol.UDP)))
    with (
        socket.create_server((SERVER, SERVER_PORT)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind((SERVER, SERVER_PORT))
        threading.Thread(target=answer_one, args=(tcp, udp), daemon=True).start()
        asyncio.run(dataplane.apply(dataplane.diff(b"", dataplane.render(plan, b""))))
        at = (place or vip, port)
        answered = [ask(kind, at) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    dataplane.close()
    sys.stdout.write(json.dumps({"capabilities": capabilities(), "answered": answered}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
