# SPDX-License-Identifier: Apache-2.0
"""Looks at this machine, as a node: kernel, tools, other proxies' rules. Changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from pointsman_ctl.checks.look import Look
from pointsman_ctl.core import judge_machine
from pointsman_ctl.core.verdict import Result

_SECONDS_MAX: Final = 10.0
_SYSCTLS: Final = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_PORTS: Final = (10249, 10256)
_TABLE: Final = "pointsman-check"
_TRIAL: Final = f"""
add table ip {_TABLE}
add map ip {_TABLE} endpoints {{ type ipv4_addr . inet_service : ipv4_addr . inet_service ; }}
add chain ip {_TABLE} incoming {{ type nat hook prerouting priority -100 ; }}
add rule ip {_TABLE} incoming fib daddr type local numgen random mod 2 0 dnat to ip daddr . tcp dport map @endpoints
add chain ip {_TABLE} outgoing {{ type nat hook postrouting priority 100 ; }}
add rule ip {_TABLE} outgoing masquerade fully-random
"""
"""What the nftables mode is made of; `nft --check` has the kernel validate it, and keeps nothing."""


def machine_looks(*, is_before: bool) -> list[Look]:
    """Everything about this machine; `is_before` an enforcer runs here."""

    async def see() -> list[Result]:
        return await asyncio.to_thread(_see, is_before=is_before)

    return [Look(category=judge_machine.MACHINE, name="node", see=see, hint="run it on a node, as root")]


def _see(*, is_before: bool) -> list[Result]:
    results = [_nft()]
    results += judge_machine.judge_tools(
        {
            "iptables-restore": _has("iptables-restore"),
            "ipset": _has("ipset"),
            "ip_vs": Path("/proc/net/ip_vs").exists() or _says("modprobe", "-n", "ip_vs") is not None,
        }
    )
    results.append(judge_machine.judge_sysctls({name: value for name in _SYSCTLS if (value := _sysctl(name))}))
    results.append(judge_machine.judge_leftovers(_leftovers()))
    if is_before:
        results.append(judge_machine.judge_ports([str(port) for port in _PORTS if _is_taken(port)]))
    return results


def _nft() -> Result:
    version = _says("nft", "--version")
    if version is None:
        return judge_machine.judge_nft(None, None)
    if os.geteuid() != 0:
        return judge_machine.judge_nft(version.strip(), None)
    done = subprocess.run(
        ["nft", "--check", "-f", "-"], input=_TRIAL.encode(), capture_output=True, check=False, timeout=_SECONDS_MAX
    )
    refusal = done.stderr.decode(errors="replace").strip().partition("\n")[0] if done.returncode else ""
    return judge_machine.judge_nft(version.strip(), refusal or ("it gives no reason" if done.returncode else ""))


def _leftovers() -> list[str]:
    found = []
    if "kube-proxy" in (_says("nft", "list", "tables") or ""):
        found.append("nftables table kube-proxy")
    if "KUBE-SVC-" in (_says("iptables-save", "-t", "nat") or ""):
        found.append("iptables chains KUBE-*")
    if Path("/sys/class/net/kube-ipvs0").exists():
        found.append("interface kube-ipvs0")
    return found


def _says(*argv: str) -> str | None:
    """What a program prints; None when it is not there or fails."""
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _has(tool: str) -> bool:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return True
    return False
