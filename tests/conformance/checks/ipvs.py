# SPDX-License-Identifier: Apache-2.0
"""What only IPVS has: real servers that drain, virtual servers of others, persistence, and its own manners.

Most are tried on a node that is its own client, where connections can be held and `ipvsadm` be read meanwhile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from conformance.catalogue import s05_external_policy, s11_changes
from conformance.checks.hygiene import passes, row_of
from conformance.executors.component import ComponentExecutor
from conformance.model import Finding, IpFamily

from pointsman_model.names import Family, Protocol
from support.ipvs_node import ENDPOINTS, NODE, PORT, TARGET, VIP, IpvsNode, ask, plan_of, who
from support.netns import NetNs

_TAKEN, _SENT = "0x80000000/0x80000000", "0x706d0004/0xfffffffe"
_FOREIGN = ("-A -t 192.0.2.9:80 -s rr", "-a -t 192.0.2.9:80 -r 192.0.2.10:80 -m -w 1")


def graceful_removal(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 163: at once without connections; with weight 0 until the last is over; UDP at once all the same."""
    of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, b, vip=vip), "dns": plan_of(a, b, vip=vip, port=53, protocol=Protocol.UDP)})
        node.program({"web": plan_of(b, vip=vip), "dns": plan_of(a, b, vip=vip, port=53, protocol=Protocol.UDP)})
        yield Finding("real servers without connections", f"{b}:1", _reals(node, of, port=PORT))
        with node.connect(vip) as held, node.connect(vip, 53, protocol=Protocol.UDP):
            node.program({"web": plan_of(a, vip=vip), "dns": plan_of(b, vip=vip, port=53, protocol=Protocol.UDP)})
            yield Finding("one with a connection", f"{a}:1 {b}:0", _reals(node, of, port=PORT))
            yield Finding("the connection", b, ask(held))
            yield Finding("UDP with a flow", f"{b}:1", _reals(node, of, port=53))
            before = node.servers()
            node.mend()
            yield Finding("a look changes nothing", str(before), str(node.servers()))


def comes_back_while_it_drains(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 164."""
    of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, vip=vip)})
        with node.connect(vip):
            node.program({"web": plan_of(b, vip=vip)})
            yield Finding("draining", f"{a}:0 {b}:1", _reals(node, of, port=PORT))
            node.program({"web": plan_of(a, b, vip=vip)})
            yield Finding("back", f"{a}:1 {b}:1", _reals(node, of, port=PORT))


def restart_while_it_drains(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 165."""
    of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, vip=vip)})
        with node.connect(vip):
            node.program({"web": plan_of(b, vip=vip)})
            node.restart()
            node.program({"web": plan_of(a, b, vip=vip)})
            node.remove_leftovers()
            yield Finding("after a restart", f"{a}:1 {b}:1", _reals(node, of, port=PORT))


def removal_hurts_nobody_else(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 166: of a Service; virtual servers of others and of the other family stay."""
    _of, vip, (a, _b, _third) = _places(family)
    other_family = IpFamily.IPV6 if family is IpFamily.IPV4 else IpFamily.IPV4
    _other, other_vip, (other_a, *_rest) = _places(other_family)
    with IpvsNode() as node:
        for line in _FOREIGN:
            node.namespace.run("ipvsadm", *line.split())
        node.program({"web": plan_of(a, vip=vip), "other": plan_of(other_a, vip=other_vip)})
        node.program({"other": plan_of(other_a, vip=other_vip)})
        yield Finding("virtual servers of ours", "1", str(sum(line.startswith("-A -f") for line in node.servers())))
        yield Finding("the other family", other_a, who(node, other_vip))
        yield Finding("of others", str(_FOREIGN), str(tuple(line for line in node.servers() if "192.0.2" in line)))


def addresses_of_the_node_stay(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 167: no address is bound to a device nor taken from one, whatever Services come and go."""
    of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        before = node.namespace.run("ip", "-o", "address")
        node.program({"web": plan_of(a, vip=NODE[of])})
        yield Finding("a Service at the node's own address", a, who(node, NODE[of]))
        node.program({"web": plan_of(b, vip=vip)})
        yield Finding("a Service elsewhere", b, who(node, vip))
        node.program({})
        yield Finding("addresses", before, node.namespace.run("ip", "-o", "address"))


def ports_go_one_by_one(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 168: an address serves until its last port is gone."""
    _of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, vip=vip), "more": plan_of(b, vip=vip, port=443)})
        node.program({"more": plan_of(b, vip=vip, port=443)})
        yield Finding("the port that stays", b, who(node, vip, 443))
        yield Finding("the one that went", "ConnectionRefusedError", who(node, vip))


def affinity_is_persistence(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Rows 169 and 162i: the persistent flag with the Service's timeout, at each of its places."""
    _of, vip, endpoints = _places(family)
    with IpvsNode() as node:
        ports = {"web": PORT, "more": 443}
        node.program(
            {name: plan_of(*endpoints, vip=vip, port=at, affinity_timeout_seconds=321) for name, at in ports.items()}
        )
        flags = sorted(line.partition(" -s ")[2] for line in node.servers() if line.startswith("-A"))
        yield Finding("flags", "['rr -p 321', 'rr -p 321']", str(flags))
        yield Finding("endpoints that one client meets", "1", str(len({who(node, vip) for _ in range(8)})))


def sockets_of_the_node_are_not_reached_through_a_vip(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 170; the health check port of a Service is no exception: it is served at the node's addresses."""
    _of, vip, (a, *_rest) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, vip=vip)})
        yield Finding("the port of the Service", a, who(node, vip))
        yield Finding("a port that the node listens at", "ConnectionRefusedError", who(node, vip, TARGET))


def local_endpoints_reach_themselves(_: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 171: also one that no longer serves keeps the connection that it has with itself."""
    _of, vip, (a, b, _third) = _places(family)
    with IpvsNode() as node:
        node.program({"web": plan_of(a, vip=vip)})
        with node.connect(vip, source=a) as held:
            yield Finding("itself", a, ask(held))
            node.program({"web": plan_of(b, vip=vip)})
            yield Finding("itself, when it terminates", a, ask(held))
        yield Finding("a new connection of it", b, who(node, vip, source=a))


def marks_are_cleared(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 174: no packet leaves with our mark."""
    node = stage.kernel.node
    row = row_of(s05_external_policy.rows(), "70", family)
    yield passes(stage.kernel, [row])
    devices = [link["ifname"] for link in json.loads(node.run("ip", "-j", "link")) if link["ifname"] != "lo"]
    for device in devices:
        node.run("tc", "qdisc", "add", "dev", device, "clsact")
        for prio, match in enumerate((f"handle {_TAKEN} fw", f"handle {_SENT} fw", "matchall"), start=1):
            rule = f"filter add dev {device} egress prio {prio} protocol all {match} action pass"
            node.run("tc", *rule.split())
    try:
        yield passes(stage.kernel, [row])
        marked = sum(_sent(node, device, prio) for device in devices for prio in (1, 2))
        others = sum(_sent(node, device, 3) for device in devices)
    finally:
        for device in devices:
            node.run("tc", "qdisc", "del", "dev", device, "clsact")
    yield Finding("packets that left with a mark", "0", str(marked))
    yield Finding("packets that left", "some", "some" if others else "none")


def others_are_left_alone(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 175: through changes, a refused write, a restart and the clean-up."""
    kernel = stage.kernel
    tool = "iptables-legacy" if family is IpFamily.IPV4 else "ip6tables-legacy"
    for command in (f"{tool} -t nat -N OTHERS", f"{tool} -t nat -A OTHERS -j RETURN", "ipset create others hash:ip"):
        kernel.node.run(*command.split())
    for line in _FOREIGN:
        kernel.node.run("ipvsadm", *line.split())
    try:
        rows = [row_of(s11_changes.rows(), number, family) for number in ("125", "130", "133", "135")]
        for row in kernel.held_to(rows):
            yield passes(kernel, [row])
            yield Finding(f"what is others' after row {row.number}", "all of it", _others(kernel.node, tool))
        kernel.cleanup()
        yield Finding("what is others' after the clean-up", "all of it", _others(kernel.node, tool))
        left = kernel.node.run("ipset", "list", "-n") + kernel.node.run(f"{tool}-save")
        yield Finding("what is ours after the clean-up", "nothing", "some" if "ointsman" in left.lower() else "nothing")
    finally:
        for command in (f"{tool} -t nat -F OTHERS", f"{tool} -t nat -X OTHERS", "ipset destroy others", "ipvsadm -C"):
            kernel.node.run(*command.split(), check=False)


def _others(node: NetNs, tool: str) -> str:
    servers = node.run("ipvsadm", "-Sn")
    is_there = "-A OTHERS -j RETURN" in node.run(tool, "-t", "nat", "-S", "OTHERS")
    is_there &= all(line in servers for line in _FOREIGN) and "others" in node.run("ipset", "list", "-n").split()
    return "all of it" if is_there else servers


def _sent(node: NetNs, device: str, prio: int) -> int:
    """Packets that a filter met on their way out; as text, because tc's JSON of these filters is none."""
    shown = node.run("tc", "-s", "filter", "show", "dev", device, "egress", "prio", str(prio))
    return sum(int(count) for count in re.findall(r"Sent \d+ bytes (\d+) pkt", shown))


def _places(family: IpFamily) -> tuple[Family, str, tuple[str, str, str]]:
    of = Family.IPV4 if family is IpFamily.IPV4 else Family.IPV6
    return of, VIP[of], ENDPOINTS[of]


def _reals(node: IpvsNode, family: Family, *, port: int) -> str:
    """Real servers of the Service at this port, as `address:weight`: its element says which virtual server it is."""
    protocol = "udp" if port == 53 else "tcp"
    saved = node.namespace.run("ipset", "save", f"pointsman-ipvs-others{family.value}").splitlines()
    (element,) = [line for line in saved if f"{VIP[family]},{protocol}:{port} " in line]
    mark = int(element.split("skbmark ")[1].split("/")[0], 16)
    signed = mark - (1 << 32) if mark >> 31 else mark
    lines = [line.split() for line in node.servers() if line.startswith(f"-a -f {signed} ")]
    suffix = f":{TARGET}"
    found = [(words[words.index("-r") + 1].removesuffix(suffix).strip("[]"), words[-1]) for words in lines]
    return " ".join(f"{address}:{weight}" for address, weight in sorted(found))
