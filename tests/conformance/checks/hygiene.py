# SPDX-License-Identifier: Apache-2.0
"""What the dataplane leaves behind on packets, and what it does to other people's rules: nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conformance.catalogue import s05_external_policy, s11_changes
from conformance.executors.component import ComponentExecutor
from conformance.executors.kernel import KernelExecutor
from conformance.model import Finding, IpFamily, Row

from support.netns import NetNs

_MARK = "0x4000"
"""kube-proxy's default, and ours (masqueradeBit 14)."""
_WITNESS = f"""
table inet witness {{
  chain before {{ type filter hook postrouting priority 90; meta mark & {_MARK} == {_MARK} counter; }}
  chain after {{ type filter hook postrouting priority 110; ct status dnat counter; meta mark & {_MARK} != 0 counter; }}
}}
"""
_FOREIGN = {"inet": "pointsmanlike", "ip": "kube-proxy", "ip6": "pointsman-other", "bridge": "pointsman"}
_FOREIGN_RULES = """
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


def marks_are_cleared(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 174: after masquerade no packet carries the mark, which would masquerade it again behind a tunnel."""
    row = row_of(s05_external_policy.rows(), "70", family)
    node = stage.kernel.node
    node.run("nft", "-f", "-", stdin=_WITNESS)
    try:
        yield passes(stage.kernel, [row])
        marked, translated, still_marked = _counted(node)
    finally:
        node.run("nft", "delete", "table", "inet", "witness")
    yield Finding("packets carry the mark before", "some", "some" if marked else "none")
    yield Finding("packets were translated", "some", "some" if translated else "none")
    yield Finding("packets with the mark after", "0", str(still_marked))


def others_are_left_alone(stage: ComponentExecutor, family: IpFamily) -> Iterator[Finding]:
    """Row 175: through changes, a refused write, a restart and the clean-up."""
    kernel = stage.kernel
    kernel.node.run("nft", "-f", "-", stdin=_FOREIGN_RULES)
    before = _others(kernel.node)
    try:
        rows = [row_of(s11_changes.rows(), number, family) for number in ("125", "130", "133", "135")]
        for row in kernel.held_to(rows):
            yield passes(kernel, [row])
            yield Finding(f"rules of others after row {row.number}", before, _others(kernel.node))
        kernel.cleanup()
        yield Finding("rules of others after the clean-up", before, _others(kernel.node))
        yield Finding("tables of ours after the clean-up", "none", _ours(kernel.node))
    finally:
        for of, name in _FOREIGN.items():
            kernel.node.run("nft", "delete", "table", of, name, check=False)


def row_of(rows: Iterator[Row], number: str, family: IpFamily) -> Row:
    """The row of that number and family."""
    return next(row for row in rows if row.number == number and row.family is family)


def passes(kernel: KernelExecutor, rows: Sequence[Row]) -> Finding:
    """Whether the kernel executor passes these rows, which leaves them programmed."""
    failures = [str(failure) for result in kernel.run_group(rows) for failure in result.failures]
    return Finding(f"row {rows[0].id} itself", "passed", "; ".join(failures) or "passed")


def _counted(node: NetNs) -> list[int]:
    """Packets of each counter of the witness, in the order of its rules."""
    words = node.run("nft", "list", "table", "inet", "witness").split()
    return [int(words[place + 1]) for place, word in enumerate(words) if word == "packets"]


def _others(node: NetNs) -> str:
    """Tables, with the numbers of every object: one that was made anew has another."""
    tables = (("nft", "--stateless", "--handle", "list", "table", of, name) for of, name in _FOREIGN.items())
    return "".join(node.run(*command) for command in tables)


def _ours(node: NetNs) -> str:
    known = {f"table {of} {name}" for of, name in _FOREIGN.items()}
    found = set(node.run("nft", "list", "tables").splitlines()) - known
    return ", ".join(sorted(line for line in found if "pointsman" in line)) or "none"
