# SPDX-License-Identifier: Apache-2.0
"""Pages of planners (`/statusz`, `/configz`, `/metrics`): by the URLs of the context, else by kubectl from the pods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pointsman_ctl.errors import CtlError
from pointsman_ctl.http import fetch
from pointsman_ctl.run import Run

COMPONENT: Final = "app.kubernetes.io/component"
_PORT: Final = "9444"


async def planner_pages(run: Run, page: str) -> dict[str, bytes]:
    """The page of each planner that can be reached, by the planner's URL or pod.

    Raises:
        CtlError: there is a planner whose page cannot be read, or kubectl cannot be asked for the pods.
    """
    sources = list(run.context.pages) or await asyncio.to_thread(_pods, run)
    bodies = await asyncio.gather(*(asyncio.to_thread(_read, run, source, page) for source in sources))
    return dict(zip(sources, bodies, strict=True))


async def planner_status(run: Run) -> list[Mapping[str, Any]]:
    """`/statusz` of each planner. Errors as in `planner_pages`."""
    found: list[Mapping[str, Any]] = []
    for source, body in (await planner_pages(run, "statusz")).items():
        try:
            found.append(msgspec.json.decode(body, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            raise CtlError(f"{source}/statusz is no page of a planner: {error}") from error
    return found


def _pods(run: Run) -> list[str]:
    namespace = run.context.system_namespace
    pods = run.kubectl.get("pods", "-n", namespace, "-l", f"{COMPONENT}=planner")["items"]
    return [f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:{_PORT}/proxy" for pod in pods]


def _read(run: Run, source: str, page: str) -> bytes:
    if source.startswith("/api/"):
        return run.kubectl.run("get", "--raw", f"{source}/{page}").encode()
    return fetch(f"{source.rstrip('/')}/{page}", timeout_seconds=run.timeout_seconds)
