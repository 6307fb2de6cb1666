# SPDX-License-Identifier: Apache-2.0
"""Which services go first when a transaction is long.

A node that starts cold needs the API server and DNS before anything else. In a change, taking traffic away from
endpoints that are gone comes before sending traffic to new ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from pointsman_model.names import ServiceKey

_FIRST = ServiceKey("default", "kubernetes")
_DNS_NAMES = frozenset({"kube-dns", "coredns", "kube-dns-upstream", "node-local-dns"})
_DNS_NAMESPACE = "kube-system"


class Priority:
    """Orders service keys: default/kubernetes, cluster DNS, the configured namespaces in their order, the rest."""

    __slots__ = ("_namespaces",)

    def __init__(self, namespaces: Sequence[str] = ()) -> None:
        self._namespaces = {name: index for index, name in enumerate(dict.fromkeys(namespaces))}

    def rank(self, key: ServiceKey) -> int:
        """Lower goes first."""
        if key == _FIRST:
            return 0
        if key.namespace == _DNS_NAMESPACE and key.name in _DNS_NAMES:
            return 1
        return 2 + self._namespaces.get(key.namespace, len(self._namespaces))

    def sort_key(self, key: ServiceKey) -> tuple[int, ServiceKey]:
        """For `sorted`: by rank, then by name."""
        return self.rank(key), key
