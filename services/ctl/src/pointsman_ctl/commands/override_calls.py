# SPDX-License-Identifier: Apache-2.0
"""What the subcommands of `override` ask of a planner, and how they tell of it.

Nobody changes what he has not read: the present override is read first, and its etag goes with the change. What
somebody else owns is left alone unless `--take-over` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from pointsman.control.v1 import control_service_pb2 as control_pb
from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.types.v1.types_pb2 import NamespacedName
from pointsman_ctl import console
from pointsman_ctl.core.override_form import name_text, what
from pointsman_ctl.core.plain import plain
from pointsman_ctl.errors import CtlError, PlannerError, WaitTimeoutError
from pointsman_ctl.output import Format, View, data_text, show
from pointsman_ctl.planner import PAGE_SIZE, Planner
from pointsman_ctl.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """How a change is meant."""

    is_dry_run: bool
    is_take_over: bool
    wait_seconds: float | None
    """Wait so long for every node to have it; None = do not wait."""


async def apply_all(run: Run, shown: Format, wanted: Iterable[pb.Override], intent: Intent) -> None:
    """Create or change each."""
    async with run.planner() as planner:
        for override in wanted:
            present = await _present(planner, override.name)
            _mind_owner(present, override.owner, intent)
            override.etag = override.etag or (present.etag if present is not None else "")
            answer = await planner.ask(
                planner.overrides.ApplyOverride,
                pb.ApplyOverrideRequest(override=override, validate_only=intent.is_dry_run),
            )
            verb = _verb(present, answer.override)
            _tell(shown, answer.override, f"{verb}{' (dry run)' if intent.is_dry_run else ''}", answer.warnings)
        await _wait(planner, intent)


async def delete_one(run: Run, name: NamespacedName, owner: str, intent: Intent) -> None:
    """End one."""
    async with run.planner() as planner:
        found = await planner.ask(planner.overrides.GetOverride, pb.GetOverrideRequest(name=name))
        _mind_owner(found.override, owner, intent)
        request = pb.DeleteOverrideRequest(name=name, etag=found.override.etag, validate_only=intent.is_dry_run)
        await planner.ask(planner.overrides.DeleteOverride, request)
        console.say([f"override/{name_text(found.override)} deleted{' (dry run)' if intent.is_dry_run else ''}"])
        await _wait(planner, intent)


async def renew_one(run: Run, shown: Format, name: NamespacedName) -> None:
    """Let one last."""
    async with run.planner() as planner:
        answer = await planner.ask(planner.overrides.RenewOverride, pb.RenewOverrideRequest(name=name))
        until = f"until {plain(answer.override.expire_time)}" if answer.override.HasField("expire_time") else "for good"
        _tell(shown, answer.override, f"renewed {until}", [])


async def get_one(run: Run, shown: Format, name: NamespacedName) -> None:
    """Show one."""
    async with run.planner() as planner:
        answer = await planner.ask(planner.overrides.GetOverride, pb.GetOverrideRequest(name=name))
    console.say([data_text(plain(answer.override), shown)])
    _warn(answer.warnings)


async def list_all(
    run: Run, shown: Format, request: pb.ListOverridesRequest, view: Callable[[list[pb.Override]], View[pb.Override]]
) -> None:
    """Show those that match."""
    found: list[pb.Override] = []
    request.page_size = PAGE_SIZE
    async with run.planner() as planner:
        while True:
            page = await planner.ask(planner.overrides.ListOverrides, request)
            found.extend(page.overrides)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    show(view(found), shown)


async def _present(planner: Planner, name: NamespacedName) -> pb.Override | None:
    try:
        return (await planner.ask(planner.overrides.GetOverride, pb.GetOverrideRequest(name=name))).override
    except PlannerError as error:
        if error.status is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def _mind_owner(present: pb.Override | None, owner: str, intent: Intent) -> None:
    if present is not None and present.owner != owner and not intent.is_take_over:
        raise CtlError(
            f"override {name_text(present)} belongs to {present.owner!r}, and you are {owner!r}; nothing was changed.\n"
            "  hint: ask them, choose another name, say who you are with --owner, or give --take-over"
        )


def _verb(present: pb.Override | None, now: pb.Override) -> str:
    if present is None:
        return "created"
    return "unchanged" if present.etag == now.etag else "changed"


def _tell(shown: Format, override: pb.Override, verb: str, warnings: Iterable[str]) -> None:
    data: Any = plain(override)
    line = f"override/{name_text(override)} {verb}: {override.spec.WhichOneof('kind')} {what(override.spec)}"
    console.say([data_text(data, shown)] if shown.is_data else [line])
    _warn(warnings)


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.note(f"warning: {warning}")


async def _wait(planner: Planner, intent: Intent) -> None:
    if intent.wait_seconds is None or intent.is_dry_run:
        return
    request = control_pb.WaitConvergedRequest()
    request.now.SetInParent()
    request.timeout.FromNanoseconds(round(intent.wait_seconds * 1e9))
    console.progress("waiting for every node ...")
    found = await planner.ask(planner.control.WaitConverged, request, longer_seconds=intent.wait_seconds)
    console.progress("")
    if not found.converged:
        late = "".join(f"\n  {node.name}: {node.reason}" for node in found.laggards)
        raise WaitTimeoutError(f"it is in force, and {found.reached} of {found.nodes} nodes have it by now{late}")
    console.note(f"all {found.nodes} nodes have it")
