# SPDX-License-Identifier: Apache-2.0
"""Judges certificates, and what this machine has as a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pointsman_ctl.core.verdict import Result, failed, passed, skipped, warning

MACHINE: Final = "this node"
_WARNING_DAYS: Final = 14
_FAILURE_DAYS: Final = 1


def judge_certificate(category: str, name: str, *, begins: datetime, ends: datetime, now: datetime) -> Result:
    """Whether a certificate is good, and for how long."""
    hint = "issue a new one and rename it over the old file; nothing needs a restart (docs/security.md, Rotation)"
    left = ends - now
    if now < begins:
        return failed(category, name, f"not good before {begins:%Y-%m-%d %H:%M} UTC", "is this machine's clock right?")
    if left <= timedelta():
        return failed(category, name, f"expired {ends:%Y-%m-%d %H:%M} UTC", hint)
    text = f"good for {left.days} days, until {ends:%Y-%m-%d %H:%M} UTC"
    if left < timedelta(days=_FAILURE_DAYS):
        return failed(category, name, f"expires in {left.total_seconds() / 3600:.0f} hours", hint)
    # Short-lived certificates are rotated by machines: what counts is the share of the life that is left.
    if left < timedelta(days=_WARNING_DAYS) and left < (ends - begins) / 4:
        return warning(category, name, text, hint)
    return passed(category, name, text)


def judge_nft(version: str | None, refusal: str | None) -> Result:
    """Whether this kernel takes rules as the nftables mode makes them; `refusal` is None when it could not be tried."""
    if version is None:
        hint = "the nftables mode programs the kernel without it; install `nftables` to see what is there"
        return warning(MACHINE, "nftables", "nft is not installed", hint)
    if refusal is None:
        return skipped(MACHINE, "nftables", f"{version}; whether the kernel takes our rules needs root to try")
    if refusal:
        hint = "load nf_tables, nft_nat, nft_masq and nft_fib (modprobe), use a kernel with them, or another mode"
        return failed(MACHINE, "nftables", f"the kernel refuses our rules: {refusal}", hint)
    return passed(MACHINE, "nftables", f"{version}; the kernel takes our rules")


def judge_tools(found: Mapping[str, bool]) -> list[Result]:
    """What the other modes need."""
    needs = {"iptables": ("iptables-restore", "ipset"), "ipvs": ("ip_vs", "iptables-restore", "ipset")}
    results = []
    for mode, tools in needs.items():
        missing = [tool for tool in tools if not found.get(tool)]
        if missing:
            hint = f"only for `mode: {mode}`: install or load {', '.join(missing)}"
            results.append(warning(MACHINE, f"mode {mode}", f"missing: {', '.join(missing)}", hint))
        else:
            results.append(passed(MACHINE, f"mode {mode}", f"{', '.join(tools)} are there"))
    return results


def judge_sysctls(values: Mapping[str, str]) -> Result:
    """Whether packets are forwarded at all."""
    off = [name for name, value in values.items() if value == "0"]
    if "net.ipv4.ip_forward" in off:
        hint = "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d for the next boot"
        return failed(MACHINE, "forwarding", "net.ipv4.ip_forward is 0", hint)
    if off:
        return warning(MACHINE, "forwarding", f"off: {', '.join(off)}", "switch it on if Pods have IPv6 addresses")
    if not values:
        return skipped(MACHINE, "forwarding", "sysctls cannot be read here")
    return passed(MACHINE, "forwarding", "on")


def judge_leftovers(found: Sequence[str]) -> Result:
    """Whether rules of another proxy are in this kernel."""
    if not found:
        return passed(MACHINE, "other proxies' rules", "none in this kernel")
    hint = "enforcers remove kube-proxy's rules once their own are in place and it is gone; see `pointsmanctl migrate`"
    return warning(MACHINE, "other proxies' rules", ", ".join(found), hint)


def judge_ports(taken: Sequence[str]) -> Result:
    """Whether the ports of the enforcer's pages are free."""
    if not taken:
        return passed(MACHINE, "ports", "10249 and 10256 are free")
    hint = "kube-proxy has them until it is gone; else change `healthzBindAddress` or `metricsBindAddress`"
    return warning(MACHINE, "ports", f"taken: {', '.join(taken)}", hint)
