# SPDX-License-Identifier: Apache-2.0
"""The connection table's sysctls, as kube-proxy sets them at its start.

Two differences, both for the node's good: `nf_conntrack_max` is raised and never lowered, because it belongs to the
whole host and somebody may have had a reason; and sysctls that cannot be written are said in one line and are no reason
to leave the node without services. The latter is usual: in a network namespace other than the host's the maximum and
the hash table are read-only, and in a container without privileges all of /proc/sys is (see `proc_sys`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from pointsman_enforcer.dataplane.proc_sys import network_sysctls

MAXIMUM_LIMIT: Final = 1_048_576
"""What scales with the number of cores goes no further."""
_HASH_SIZE: Final = Path("/sys/module/nf_conntrack/parameters/hashsize")
_ENTRIES_PER_BUCKET: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackSysctls:
    """What the configuration asks for; 0 and False leave alone what is there. Times in seconds."""

    maximum_per_core: int = 0
    minimum: int = 0
    tcp_established_timeout: int = 0
    tcp_close_wait_timeout: int = 0
    tcp_be_liberal: bool = False
    udp_timeout: int = 0
    udp_stream_timeout: int = 0

    def maximum(self, cores: int) -> int:
        """Entries the table should hold; 0 = as it is."""
        if not self.maximum_per_core:
            return 0
        return max(min(self.maximum_per_core * cores, MAXIMUM_LIMIT), self.minimum)


class Setting(NamedTuple):
    """One file and the number it should hold."""

    path: Path
    value: int
    field: str
    """In the words of the configuration."""
    raise_only: bool = False


def settings_of(
    wanted: ConntrackSysctls, cores: int, *, sysctls: Path | None = None, hash_size: Path = _HASH_SIZE
) -> Iterator[Setting]:
    """The files to write, in order."""
    sysctls = sysctls or network_sysctls() / "netfilter"
    maximum = wanted.maximum(cores)
    if maximum:
        yield Setting(sysctls / "nf_conntrack_max", maximum, "conntrack.maxPerCore", raise_only=True)
        yield Setting(hash_size, maximum // _ENTRIES_PER_BUCKET, "conntrack.maxPerCore", raise_only=True)
    for value, name, field in (
        (wanted.tcp_established_timeout, "nf_conntrack_tcp_timeout_established", "tcpEstablishedTimeout"),
        (wanted.tcp_close_wait_timeout, "nf_conntrack_tcp_timeout_close_wait", "tcpCloseWaitTimeout"),
        (int(wanted.tcp_be_liberal), "nf_conntrack_tcp_be_liberal", "tcpBeLiberal"),
        (wanted.udp_timeout, "nf_conntrack_udp_timeout", "udpTimeout"),
        (wanted.udp_stream_timeout, "nf_conntrack_udp_timeout_stream", "udpStreamTimeout"),
    ):
        if value:
            yield Setting(sysctls / name, value, f"conntrack.{field}")


def apply(wanted: ConntrackSysctls, *, sysctls: Path | None = None, hash_size: Path = _HASH_SIZE) -> int:
    """Write what differs; how many settings could not be had, which are logged together."""
    refusals: dict[str, str] = {}
    for setting in settings_of(wanted, os.cpu_count() or 1, sysctls=sysctls, hash_size=hash_size):
        problem = _apply(setting)
        if problem:
            refusals.setdefault(setting.field, problem)
    if refusals:
        structlog.get_logger("conntrack").warning(
            "sysctls not set; services are not affected",
            refused=refusals,
            advice="set them on the host, or set these fields to 0",
        )
    return len(refusals)


def _apply(setting: Setting) -> str:
    """Write one file if need be; what is wrong with that, or nothing."""
    present: int | None = None
    try:
        present = int(setting.path.read_text())
        if present == setting.value or (setting.raise_only and present > setting.value):
            return ""
        setting.path.write_text(f"{setting.value}\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{setting.path}: {reason}; is {present}, wanted {setting.value}"
    log = structlog.get_logger("conntrack")
    log.info("sysctl set", file=str(setting.path), before=present, now=setting.value, field=setting.field)
    return ""
