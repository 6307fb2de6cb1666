# SPDX-License-Identifier: Apache-2.0
"""Which families a host can be programmed for: one without IPv6, or without its tools, is served with IPv4 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.xtables.tools import Variant, programs
from pointsman_model.names import Family

_KERNEL_HAS_IPV6: Final = Path("/proc/thread-self/net/if_inet6")
_TRIAL: Final = b"*nat\nCOMMIT\n"


def usable_families(variant: Variant) -> tuple[Family, ...]:
    """IPv4 always; IPv6 if this kernel, its nat table and the tool are there. Says so in the log when they are not."""
    reason = _ipv6_is_missing(variant)
    if not reason:
        return tuple(Family)
    structlog.get_logger("xtables").warning("services are programmed for IPv4 alone", reason=reason)
    return (Family.IPV4,)


def _ipv6_is_missing(variant: Variant) -> str:
    if not _KERNEL_HAS_IPV6.exists():
        return "this kernel has no IPv6"
    for program in programs(variant, Family.IPV6):
        if exec.find(program) is None:
            return f"the program {program} is not installed"
    restore = exec.find(programs(variant, Family.IPV6)[0])
    try:
        exec.run([restore or "", "--noflush", "--test"], stdin=_TRIAL)
    except CommandError as error:
        return f"IPv6 has no nat table here: {error}"
    return ""
