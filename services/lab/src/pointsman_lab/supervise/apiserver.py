# SPDX-License-Identifier: Apache-2.0
"""The API server as a process of its own: `python -m pointsman_lab.supervise.apiserver STATE_DIRECTORY FD`.

It listens on the host's loopback, by the socket FD that was bound before the lab had namespaces, and on the control
address. Apart from the lab's control process it can be stopped and killed like any other.
"""

import asyncio
import signal
import socket
import sys
from pathlib import Path

from pointsman_lab.apiserver.auth import server_tls
from pointsman_lab.apiserver.bootstrap import ClusterOptions, new_cluster
from pointsman_lab.apiserver.server import ApiServer, ServerOptions
from pointsman_lab.net.topology import Topology
from pointsman_lab.pki import Pki
from pointsman_lab.supervise.services import API_PORT

_NAMESPACE_SECONDS = 1.0
"""Until the content of a deleted namespace goes: about what a namespace controller takes."""


async def serve(pki_directory: Path, host_socket: socket.socket) -> None:
    """Serves until SIGTERM.

    Raises:
        OSError: a control address cannot be listened on.
    """
    pki = Pki(directory=pki_directory)
    addresses = tuple(Topology(nodes=()).control_address)
    registry = new_cluster(ClusterOptions(api_addresses=addresses, api_port=API_PORT))
    loop = asyncio.get_running_loop()
    registry.empty_namespaces_with(lambda work: loop.call_later(_NAMESPACE_SECONDS, work))
    tls = server_tls(pki.server.certificate, pki.server.key, pki.ca)
    server = ApiServer(registry, ServerOptions(tls=tls, anonymous=False))
    await server.start([host_socket, *(socket.create_server((ip, API_PORT), family=_family(ip)) for ip in addresses)])
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))))
