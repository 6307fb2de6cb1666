# SPDX-License-Identifier: Apache-2.0
"""Asks where planners are: the API server for the slices of their Service, name servers for their addresses.

Neither needs a Service to work on this node: the API server is asked at a direct address, names are those that the
node's own resolver answers. Whatever fails is logged and is an empty answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

import msgspec
import structlog

from pointsman_chassis.errors import PointsmanError
from pointsman_enforcer.core.candidates import is_address
from pointsman_enforcer.core.planner_directory import Source
from pointsman_enforcer.settings import PlannerLookupSettings

_NAMES_TIMEOUT_SECONDS: Final = 5.0
SLICES_TIMEOUT_SECONDS: Final = 30.0
"""For all servers together; nothing is dialled meanwhile."""
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""All addresses of a name; OSError or UnicodeError when there are none."""


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    terminating: bool | None = None


class _Endpoint(msgspec.Struct, frozen=True):
    addresses: list[str] = []
    conditions: _Conditions = _Conditions()


class _Port(msgspec.Struct, frozen=True):
    name: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct, frozen=True, rename={"address_type": "addressType"}):
    address_type: str
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _SliceList(msgspec.Struct, frozen=True):
    items: list[_Slice]


class PlannerFinder:
    """Makes the lookups of one node."""

    def __init__(
        self,
        *,
        names: Sequence[str],
        lookup: PlannerLookupSettings,
        resolve: Resolve | None = None,
        slices_timeout_seconds: float = SLICES_TIMEOUT_SECONDS,
    ) -> None:
        """`names`: `host:port` each, to be resolved, by the node's resolver unless `resolve` is given."""
        self._slices_timeout_seconds = slices_timeout_seconds
        self._names = tuple(names)
        self._lookup = lookup
        self._resolve_name = resolve or resolve_name

    async def look_up(self, source: Source) -> list[str]:
        """What a source says now, as `host:port`."""
        try:
            if source is Source.NAMES:
                return await self._resolve()
            # Each step of a request has a time of its own, but a server may answer byte by byte.
            async with asyncio.timeout(self._slices_timeout_seconds):
                return await asyncio.to_thread(self._read_slices)
        except (PointsmanError, msgspec.DecodeError, TimeoutError) as error:
            log = structlog.get_logger("planner-lookup")
            log.warning("planners could not be looked up", source=source.name, error=str(error) or "no answer in time")
            return []

    def _read_slices(self) -> list[str]:
        # TLS and HTTP cost a megabyte or two that most nodes never need.
        from pointsman_chassis import api_access  # noqa: PLC0415 - see above

        lookup = self._lookup
        if lookup.kubeconfig:
            access = api_access.kubeconfig(Path(lookup.kubeconfig), lookup.api_servers)
        else:
            access = api_access.service_account(lookup.api_servers)
        selector = quote(f"kubernetes.io/service-name={lookup.service}", safe="")
        # Version 0 is answered from the API server's memory, not from etcd: nodes ask all at once after an outage.
        path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(lookup.namespace, safe='')}/endpointslices"
        body = access.get(f"{path}?labelSelector={selector}&resourceVersion=0")
        return addresses_of(body, lookup.port)

    async def _resolve(self) -> list[str]:
        found: dict[str, None] = {}
        for name in self._names:
            host, _, port = name.rpartition(":")
            try:
                async with asyncio.timeout(_NAMES_TIMEOUT_SECONDS):
                    addresses = await self._resolve_name(host)
            except (OSError, UnicodeError, TimeoutError) as error:
                log = structlog.get_logger("planner-lookup")
                log.warning(
                    "name of planners could not be resolved", name=host, error=str(error) or "no answer in time"
                )
                continue
            texts = (f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in addresses)
            found.update((text, None) for text in texts if is_address(text))
        return list(found)


async def resolve_name(host: str) -> list[str]:
    """All addresses of both families that the node's resolver has for a name."""
    answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in answers]


def addresses_of(body: bytes, port_name: str) -> list[str]:
    """The ready endpoints of a list of slices, at the port of this name; if none is ready, those not terminating.

    Raises:
        msgspec.DecodeError: this is no such list.
    """
    ready: dict[str, None] = {}
    others: dict[str, None] = {}
    for each in _decoded(body).items:
        ports = [port.port for port in each.ports or () if (port.name or "") == port_name and port.port]
        for endpoint in each.endpoints or ():
            is_ready = endpoint.conditions.ready is not False
            if endpoint.conditions.terminating:
                continue
            for host in endpoint.addresses[:1]:
                text = f"[{host}]" if each.address_type == "IPv6" else host
                found = {f"{text}:{port}": None for port in ports if is_address(f"{text}:{port}")}
                (ready if is_ready else others).update(found)
    return list(ready or others)


def _decoded(body: bytes) -> _SliceList:
    try:
        return msgspec.json.decode(body, type=_SliceList)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"not UTF-8: {error}") from error
