# SPDX-License-Identifier: Apache-2.0
"""`--dry-run`: what a start would change in the kernel, in the words of the mode's own tool, and nothing done."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pointsman_chassis.errors import ConfigError
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.base import Dataplane, Found, ProxyMode, UnsupportedPlanError
from pointsman_enforcer.disk.plan_journal import FILE_NAME, load_plan
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan

_CHECK_SECONDS_MAX: Final = 60.0


async def dry_run(dataplane: Dataplane[Any], directory: Path) -> list[str]:
    """The lines to print.

    Raises:
        ConfigError: there is no plan on disk to compare with.
    """
    store = load_plan(directory).store
    if store.facts is None:
        raise ConfigError(
            f"no plan in {directory / FILE_NAME}: start the enforcer once with a planner, or name its state directory"
        )
    dataplane.configure(store.facts)
    found = await dataplane.observe()
    problems: list[str] = []
    change = _whole_change(dataplane, store, problems)
    commands = list(dataplane.describe(change))
    revision = f"revision {store.position.revision} of {store.position.epoch or 'no epoch'}"
    head = f"# {len(store)} services at {revision}; in the kernel: {found.value}"
    checked = _checked(commands, found) if dataplane.mode is ProxyMode.NFTABLES else "# not checked: nft alone can"
    dataplane.close()
    return [head, *problems, *(commands or ["# nothing to change"]), checked]


def _whole_change(dataplane: Dataplane[Any], store: PlanStore, problems: list[str]) -> Any:
    change = dataplane.diff(b"", b"")
    for key in store:
        try:
            plan = decode_service_plan(store.get(key) or b"")
            previous = dataplane.claim(plan, b"")
            change.include(dataplane.diff(previous, dataplane.render(plan, previous)))
        except (PlanFormatError, UnsupportedPlanError) as error:
            problems.append(f"# {key} would not be programmed: {error}")
    if store.facts is not None:
        node = dataplane.claim_node(b"")
        rendering = dataplane.render_node(store.facts, drop_unallocated=store.is_complete)
        change.include(dataplane.diff(node, rendering))
    if store.is_complete and not problems:
        for leftover in dataplane.leftover():
            change.include(leftover)
    return change


def _checked(commands: list[str], found: Found) -> str:
    """What `nft --check` says of the commands, where it can be asked.

    It is asked about our tables as a whole, written anew with the commands after them: nft 1.0.6 cannot relate a new
    rule to a map of addresses and ports that it only knows from the kernel.
    """
    nft = exec.find("nft")
    wanted = [command for command in commands if not command.startswith("#")]
    if not wanted:
        return "# nothing to check"
    if nft is None:
        return "# not checked: nft is not installed"
    if found is not Found.OURS:
        return "# not checked: there are no tables of ours to check against"
    try:
        script = "\n".join([*(_rewritten(nft, family) for family in ("ip", "ip6")), *wanted, ""])
        exec.run([nft, "--check", "-f", "-"], stdin=script.encode(), timeout_seconds=_CHECK_SECONDS_MAX)
    except exec.CommandError as error:
        return f"# nft --check: {error}"
    return "# nft --check: accepted"


def _rewritten(nft: str, family: str) -> str:
    """A table of ours as commands that delete it and make it again."""
    listing = exec.run([nft, "list", "table", family, "pointsman"], timeout_seconds=_CHECK_SECONDS_MAX)
    return f"delete table {family} pointsman\n{listing}"
