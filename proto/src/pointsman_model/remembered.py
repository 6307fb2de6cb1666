# SPDX-License-Identifier: Apache-2.0
"""A client of a ServicePort and the endpoint that some node remembers for it, in the words that all nodes share."""

from __future__ import annotations

from typing import NamedTuple

from pointsman_model.names import ServicePortName


class ClientKey(NamedTuple):
    """Who is remembered: a client address of a ServicePort; the address says the family."""

    port: ServicePortName
    client: bytes


class RememberedClient(NamedTuple):
    """A client, its endpoint, and for how long.

    Attributes:
        key: who.
        endpoint: address, of the client's family, and port.
        left_ms: when it is forgotten if it does not connect again, from the moment at which this was said.
    """

    key: ClientKey
    endpoint: tuple[bytes, int]
    left_ms: int
