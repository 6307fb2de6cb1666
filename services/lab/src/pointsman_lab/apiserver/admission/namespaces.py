# SPDX-License-Identifier: Apache-2.0
"""Namespaces: the label every namespace has with its own name, the finalizer, and the phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.errors import Cause

_NAME_LABEL: Final = "kubernetes.io/metadata.name"


class NamespaceRules:
    """The rules of Namespaces; emptying a deleted one is the business of deletion."""

    def on_create(self, body: Json) -> list[Cause]:
        """Start as Active."""
        body["status"] = {"phase": "Active"}
        return self._admit(body)

    def on_update(self, body: Json, before: Json) -> list[Cause]:  # noqa: ARG002 - the interface gives both
        """Keep the name label."""
        return self._admit(body)

    @staticmethod
    def _admit(body: Json) -> list[Cause]:
        body["metadata"]["labels"] = {**(body["metadata"].get("labels") or {}), _NAME_LABEL: body["metadata"]["name"]}
        body["spec"] = {"finalizers": ["kubernetes"]}
        return []
