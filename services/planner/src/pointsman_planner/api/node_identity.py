# SPDX-License-Identifier: Apache-2.0
"""Whether a caller is the node whose plan it asks for, by its certificate or its token."""

from __future__ import annotations

from typing import Any

from pointsman_chassis.caller import certificate_caller
from pointsman_chassis.guard import GuardedContext


def identities(context: Any) -> frozenset[str]:
    """The names of a caller: those of its certificate, or the node that its token is bound to."""
    caller = context.caller if isinstance(context, GuardedContext) else certificate_caller(context.auth_context())
    return caller.names


def may_stream(names: frozenset[str], node_name: str) -> bool:
    """Whether a caller with these names is the node: `system:node:NAME` as kubelets have it, or NAME as a DNS name."""
    return f"system:node:{node_name}" in names or node_name in names
