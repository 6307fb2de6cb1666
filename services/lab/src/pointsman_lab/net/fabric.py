# SPDX-License-Identifier: Apache-2.0
"""Builds and changes the lab's network. Runs inside the lab's own namespaces only.

The layout decides the lines, this module feeds them to one `ip -batch` per namespace, which takes about 3 ms each.
"""

import asyncio
import hashlib
import subprocess
from collections.abc import Iterable, Sequence

from pointsman_lab.errors import LabUsageError, NetworkError
from pointsman_lab.net import layout
from pointsman_lab.net.namespaces import (
    create_namespace,
    entered,
    name_current_namespace,
    remove_namespace,
    write_sysctls,
)
from pointsman_lab.net.process import start_process, wait_process
from pointsman_lab.net.topology import CONTROL, OUTSIDE, DualStack, PodAddresses, Topology, pod_place

_BATCH_TIMEOUT_SECONDS = 30.0
PERCENT_MAX = 100


class Fabric:
    """The network of one lab. Not safe for two changes of the same pod at once."""

    def __init__(self, topology: Topology) -> None:
        """Takes the topology; `build` creates it."""
        self.topology = topology
        self._addresses = {node.name: PodAddresses(node.pod_cidr) for node in topology.nodes}

    async def build(self) -> None:
        """Creates the control place, the machines of the control plane, nodes and the outside.

        Raises:
            NetworkError: the kernel refused something; the message quotes the line.
        """
        name_current_namespace(CONTROL)
        write_sysctls(layout.COMMON_SYSCTLS)
        nodes = {node.name for node in self.topology.nodes}
        for name in (*(place.name for place in self.topology.members), *nodes, OUTSIDE):
            create_namespace(name)
            with entered(name):
                write_sysctls(layout.COMMON_SYSCTLS)
                if name in nodes:
                    write_sysctls(layout.FORWARDING_SYSCTLS)
        await run_batch(CONTROL, layout.control_lines(self.topology))
        await run_batch(OUTSIDE, layout.outside_lines(self.topology))
        for member in self.topology.members:
            await run_batch(member.name, layout.member_lines(self.topology, member))
        for node in self.topology.nodes:
            await run_batch(node.name, layout.node_lines(self.topology, node))

    async def add_pod(self, namespace: str, name: str, node: str) -> DualStack:
        """Creates the pod's namespace on `node` and answers with its addresses.

        Raises:
            NetworkError: the kernel refused, or the node has no address left; nothing stays behind.
        """
        place = pod_place(namespace, name)
        try:
            address = self._addresses[node].allocate()
        except ValueError as error:
            raise NetworkError(str(error)) from error
        try:
            create_namespace(place)
            with entered(place):
                write_sysctls(layout.COMMON_SYSCTLS)
            attach = layout.pod_attach_lines(
                link=link_name(place), place=place, node=self.topology.node(node), address=address
            )
            await run_batch(node, attach)
            await run_batch(place, layout.pod_lines(address))
        except BaseException:
            await self.remove_pod(namespace, name, node, address)
            raise
        return address

    async def remove_pod(self, namespace: str, name: str, node: str, address: DualStack) -> None:
        """Removes the pod's link, namespace name and addresses; a pod that is gone already is fine."""
        place = pod_place(namespace, name)
        # The link goes explicitly: a socket that lingers would otherwise keep namespace and link alive.
        await run_batch(node, [f"link delete {link_name(place)}"], check=False)
        remove_namespace(place)
        self._addresses[node].release(address)

    async def partition(self, place: str) -> None:
        """Cuts a place off: its cable is unplugged at the switch, so packets vanish and no carrier is lost."""
        self._require_cable(place)
        await run_batch(CONTROL, [f"link set {layout.port_name(place)} nomaster"])

    async def heal(self, place: str) -> None:
        """Plugs a place's cable in again."""
        self._require_cable(place)
        await run_batch(CONTROL, [f"link set {layout.port_name(place)} master {layout.BRIDGE}"])

    async def cut(self, member: str, peers: Sequence[str], percent: int = 100) -> None:
        """A machine of the control plane loses so many percent of the packets from and to the peers, each way.

        Replaces what was cut there before; no peers means nothing is cut. Nodes are not cut this way: their rules are
        the enforcer's.
        """
        if member not in {each.name for each in self.topology.members}:
            known = ", ".join(each.name for each in self.topology.members)
            raise LabUsageError(f"only machines of the control plane are cut from others: {known}; not {member!r}")
        if not 0 < percent <= PERCENT_MAX:
            raise LabUsageError(f"percent must be between 1 and {PERCENT_MAX}, not {percent}")
        rules = layout.cut_rules([self.topology.address_of(peer) for peer in peers], percent)
        await run_with_input(member, ["nft", "-f", "-"], rules)

    async def route_outside(self, routes: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Sets, for each address, over which nodes outside clients reach it; no node means unreachable."""
        source = self.topology.outside_address
        lines = [
            layout.outside_route_line(ip, [self.topology.node(name) for name in via], source) for ip, via in routes
        ]
        if lines:
            await run_batch(OUTSIDE, lines)

    def _require_cable(self, place: str) -> None:
        if place == CONTROL:
            raise LabUsageError("the control place holds the switch; cut the others from it instead")
        self.topology.address_of(place)


def link_name(place: str) -> str:
    """The node's end of a pod's veth pair; at most 15 characters, the kernel's limit."""
    return "veth" + hashlib.blake2b(place.encode(), digest_size=5).hexdigest()


async def run_batch(place: str, lines: Iterable[str], *, check: bool = True) -> None:
    """Runs `ip -batch` with `lines` in a place.

    Raises:
        NetworkError: a line failed and `check` is set.
    """
    options = ["-batch"] if check else ["-force", "-batch"]
    await run_with_input(place, ["ip", *options, "-"], "\n".join(lines) + "\n", check=check)


async def run_with_input(place: str, argv: Sequence[str], text: str, *, check: bool = True) -> None:
    """Runs a command in a place with `text` as its input.

    Raises:
        NetworkError: it failed and `check` is set.
    """
    process = start_process(place, argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    loop = asyncio.get_running_loop()
    _, stderr = await asyncio.wait_for(
        loop.run_in_executor(None, process.communicate, text.encode()), timeout=_BATCH_TIMEOUT_SECONDS
    )
    code = await wait_process(process)
    if check and code != 0:
        shown = " ".join(argv)
        raise NetworkError(f"{shown} in {place!r} failed: {stderr.decode(errors='replace').strip()}\n{text}")
