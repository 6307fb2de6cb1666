# SPDX-License-Identifier: Apache-2.0
"""Whether the certificate of a caller names the node whose plan it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_IDENTITY_PROPERTIES = ("x509_common_name", "x509_subject_alternative_name")


def identities(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The names in a peer's certificate, from gRPC's auth context."""
    return frozenset(
        value.decode("utf-8", "replace") for name in _IDENTITY_PROPERTIES for value in auth_context.get(name, ())
    )


def may_stream(names: frozenset[str], node_name: str) -> bool:
    """Whether a caller with these names is the node: `system:node:NAME` as kubelets have it, or NAME as a DNS name."""
    return f"system:node:{node_name}" in names or node_name in names
