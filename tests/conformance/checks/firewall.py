# SPDX-License-Identifier: Apache-2.0
"""What the iptables modes do in tables that belong to everybody: let services through, keep out what cannot be."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from conformance.addresses import CLIENT
from conformance.catalogue import s04_node_ports, s05_external_policy
from conformance.checks.hygiene import passes, row_of
from conformance.executors.component import ComponentExecutor
from conformance.model import Finding, IpFamily

_LOOPBACK, _POD = "127.0.0.1", "10.180.0.1"
_TYPES = {IpFamily.IPV4: 0x0800, IpFamily.IPV6: 0x86DD}
_POD_V6, _CLIENT_V6 = "fd00:10::180:0:1", "2001:db8:203::2"
_SYN_ACK = 0x12


def forwards_where_all_is_dropped(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 172: the node forwards nothing by itself, and masqueraded service traffic and its replies pass."""
    tool = _tool(stage, family)
    row = row_of(s04_node_ports.rows(), "44", family)
    yield passes(stage.kernel, [row])
    stage.kernel.node.run(tool, "-P", "FORWARD", "DROP")
    try:
        yield passes(stage.kernel, [row])
    finally:
        stage.kernel.node.run(tool, "-P", "FORWARD", "ACCEPT")


def drops_invalid_packets(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 173: an answer to nobody's question is not forwarded."""
    yield passes(stage.kernel, [row_of(s04_node_ports.rows(), "44", family)])
    source, destination = (CLIENT, _POD) if family is IpFamily.IPV4 else (_CLIENT_V6, _POD_V6)
    yield from _dropped(stage, family, "filter", "--ctstate INVALID", (source, destination, 4444, _SYN_ACK))


def drops_martians(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 53: 127.0.0.1 answers this host alone, on node ports and on any other. For ::1 no rule is needed."""
    yield passes(stage.kernel, [row_of(s04_node_ports.rows(), "51", family)])
    for port in (10249, 3001) if family is IpFamily.IPV4 else ():
        yield from _dropped(stage, family, "mangle", "-d 127.0.0.0/8", (CLIENT, _LOOPBACK, port, 0x02))


def accepts_health_checks(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 76: a rule accepts the health check port as long as the Service is there, whatever else the node accepts."""
    row = row_of(s05_external_policy.rows(), "76d", family)
    for steps, words in ((row.steps[:1], "accepted"), (row.steps, "left alone")):
        yield passes(stage.kernel, [replace(row, steps=steps)])
        rules = stage.kernel.node.run(_tool(stage, family), "-S", "POINTSMAN-INPUT")
        members = stage.kernel.node.run("ipset", "save")
        is_open = "-j ACCEPT" in rules and re.search(r"^add pointsman-health\d 30000$", members, re.MULTILINE)
        yield Finding("the health check port", words, "accepted" if is_open else "left alone")


def _dropped(
    stage: ComponentExecutor, family: IpFamily, table: str, rule: str, packet: tuple[str, str, int, int]
) -> Iterator[Finding]:
    before = _counted(stage, family, table, rule)
    _send(stage, family, packet)
    after = _counted(stage, family, table, rule)
    yield Finding(f"packets dropped by {rule} at port {packet[2]}", str(before + 1), str(after))


def _counted(stage: ComponentExecutor, family: IpFamily, table: str, rule: str) -> int:
    saved = stage.kernel.node.run(f"{_tool(stage, family)}-save", "-c", "-t", table)
    found = re.search(rf"^\[(\d+):\d+\] -A POINTSMAN-\S+ .*{re.escape(rule)} .*-j DROP$", saved, re.MULTILINE)
    return int(found[1]) if found else -1


def _tool(stage: ComponentExecutor, family: IpFamily) -> str:
    prefix = "iptables" if family is IpFamily.IPV4 else "ip6tables"
    variant = "legacy" if stage.kernel.mode.guest_modules else stage.kernel.mode.name.rpartition("iptables-")[2]
    return f"{prefix}-{variant}"


def _send(stage: ComponentExecutor, family: IpFamily, packet: tuple[str, str, int, int]) -> None:
    """One TCP packet from the machine outside to the node, whatever the routing of either thinks of its addresses.

    `packet` is source, destination, port and flags.
    """
    source, destination, port, flags = packet
    of = socket.AF_INET if family is IpFamily.IPV4 else socket.AF_INET6
    addresses = [socket.inet_pton(of, each) for each in (source, destination)]
    segment = struct.pack(">HHIIBBHHH", 40000, port, 1, 1, 5 << 4, flags, 1024, 0, 0)
    pseudo = b"".join(addresses) + struct.pack(">IHBB", len(segment), 0, 0, socket.IPPROTO_TCP)
    segment = segment[:16] + struct.pack(">H", _checksum(pseudo + segment)) + segment[18:]
    if family is IpFamily.IPV4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, socket.IPPROTO_TCP, 0)
        header += b"".join(addresses)
        header = header[:10] + struct.pack(">H", _checksum(header)) + header[12:]
    else:
        header = struct.pack(">IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64) + b"".join(addresses)
    link = json.loads(stage.kernel.node.run("ip", "-j", "link", "show", "dev", "out0"))[0]
    with stage.kernel.outside.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        sender.sendto(header + segment, ("eth0", _TYPES[family], 0, 0, bytes.fromhex(link["address"].replace(":", ""))))


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
