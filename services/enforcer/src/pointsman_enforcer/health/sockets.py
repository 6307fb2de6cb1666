# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, of exactly one family each, so that a failure names the address it is about."""

from __future__ import annotations

import errno
import socket

from pointsman_enforcer.core.service_health import ANY
from pointsman_model.names import Family, family_of, format_address

_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_BACKLOG = 128
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def listen_on(address: bytes, port: int) -> socket.socket:
    """A listening TCP socket at one packed address (zeros: all of the family); raises OSError."""
    family = family_of(address)
    made = socket.socket(_FAMILIES[family], socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is Family.IPV6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((format_address(address), port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def listen_everywhere_or_on(address: bytes, port: int) -> list[socket.socket]:
    """As `listen_on`, but zeros of either family stand for all addresses of both, as they do for kube-proxy.

    The other family is left out on a node that does not have it.
    """
    first = listen_on(address, port)
    if address not in ANY.values():
        return [first]
    other = ANY[Family.IPV6 if family_of(address) is Family.IPV4 else Family.IPV4]
    try:
        return [first, listen_on(other, first.getsockname()[1])]
    except OSError as error:
        if error.errno in _NO_SUCH_FAMILY:
            return [first]
        first.close()
        raise
