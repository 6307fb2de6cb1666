# SPDX-License-Identifier: Apache-2.0
"""The objects a benchmark runs on: N services of ten endpoints, and variations of a slice. Pure but for `load`."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NAMESPACES, SERVICES

if TYPE_CHECKING:
    from pointsman_lab.apiserver.client import ApiClient

NAMESPACE = "bench"
ENDPOINTS = 10
_POD_BASE = int(ipaddress.ip_address("10.128.0.0"))
_WRITERS = 16


def service(index: int) -> dict[str, Any]:
    """Service number `index`, without selector, so that only the bench writes its slice."""
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(index), "namespace": NAMESPACE},
        "spec": {"ports": ports},
    }


def endpoint_slice(index: int, addresses: list[str]) -> dict[str, Any]:
    """The only slice of service `index`, with these endpoints."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name(index)}-a",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": name(index)},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"other-{number}",
            }
            for number, address in enumerate(addresses)
        ],
    }


def name(index: int) -> str:
    """Name of service `index`."""
    return f"svc-{index:05d}"


def addresses(index: int, *, version: int = 0, count: int = ENDPOINTS) -> list[str]:
    """Endpoint addresses of service `index`; another version replaces the first endpoint, `count` cuts the list."""
    first = _POD_BASE + index * 16
    replaced = first + ENDPOINTS + version % 6
    chosen = [replaced if version else first, *range(first + 1, first + ENDPOINTS)]
    return [str(ipaddress.ip_address(address)) for address in chosen[:count]]


async def load(api: ApiClient, first: int, last: int) -> None:
    """Create services `first`..`last` - 1 and their slices, several writers at once."""
    await api.request(
        "PATCH",
        NAMESPACES.path("", NAMESPACE),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        query={"fieldManager": "bench", "force": "true"},
        media_type="application/apply-patch+yaml",
    )
    pending = iter(range(first, last))

    async def write() -> None:
        for index in pending:
            await api.create(ENDPOINTSLICES, endpoint_slice(index, addresses(index)), NAMESPACE)
            await api.create(SERVICES, service(index), NAMESPACE)

    await asyncio.gather(*(write() for _ in range(_WRITERS)))
