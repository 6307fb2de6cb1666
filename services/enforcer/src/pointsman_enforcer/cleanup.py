# SPDX-License-Identifier: Apache-2.0
"""`--cleanup` and `--cleanup-kube-proxy`: removes what is ours in every mode, or what a kube-proxy left.

May be repeated. Needs no plan, no configuration of a mode, and not the tools of a mode that was never used. Connections
of IPVS end, as nobody would wait for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pointsman_chassis.errors import ConfigError
from pointsman_enforcer.dataplane.leftovers import Leftover, sweep
from pointsman_enforcer.dataplane.modes.own_leftovers import own_leftovers
from pointsman_enforcer.disk.plan_journal import remove_plan
from pointsman_enforcer.disk.planner_file import remove_planners
from pointsman_enforcer.settings import EnforcerConfiguration


async def cleanup(config: EnforcerConfiguration, *, is_ours: bool, is_kube_proxys: bool) -> int:
    """Remove what is asked for, and say what was there; the exit status: 1 when something could not be removed.

    Raises:
        ConfigError: the plan on disk could not be removed.
    """
    leftovers: list[Leftover] = []
    if is_ours:
        leftovers += own_leftovers(frozenset(), at_once=True)
    if is_kube_proxys:
        from pointsman_enforcer.dataplane.kube_proxy.takeover import kube_proxy_leftovers  # noqa: PLC0415 - only here

        leftovers += kube_proxy_leftovers()
    is_removed = await _remove(leftovers)
    if not is_ours:
        return 0 if is_removed else 1
    try:
        remove_plan(Path(config.state_directory))
        remove_planners(Path(config.state_directory))
    except OSError as error:
        raise ConfigError(f"cannot remove the plan in {config.state_directory}: {error}") from error
    return 0 if is_removed else 1


async def _remove(leftovers: Sequence[Leftover]) -> bool:
    is_removed = True
    for leftover in leftovers:
        swept = await sweep(leftover)
        if swept.error:
            is_removed = False
            sys.stderr.write(f"error: {swept.error}\n")
        elif swept.found:
            rest = "; what carries connections waits for them: repeat this" if swept.is_waiting else ""
            sys.stdout.write(f"removed {swept.name}: {swept.found}{rest}\n")
    return is_removed
