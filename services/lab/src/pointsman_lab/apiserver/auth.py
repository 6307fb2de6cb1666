# SPDX-License-Identifier: Apache-2.0
"""Who asks: bearer tokens from a given mapping, client certificates of the given CA, or nobody when that is allowed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.web import BaseRequest

    from pointsman_lab.apiserver.identities import Identities

ANONYMOUS: Final = "system:anonymous"
_OPEN_PATHS: Final = ("/healthz", "/livez", "/readyz", "/version")


class Authenticator:
    """Names the user behind a request.

    Args:
        identities: the bearer tokens.
        anonymous: whether a request without credentials may pass.
    """

    def __init__(self, identities: Identities, *, anonymous: bool) -> None:
        self._identities = identities
        self._anonymous = anonymous

    def user_of(self, request: BaseRequest) -> str:
        """Give the user name.

        Raises:
            ApiError: 401 for an unknown token, or for no credentials where they are needed.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            user = self._identities.user_of(token.strip())
            if user is None:
                raise errors.unauthorized()
            return user
        user = _certificate_user(request)
        if user:
            return user
        if self._anonymous or request.path.startswith(_OPEN_PATHS):
            return ANONYMOUS
        raise errors.unauthorized()


def _certificate_user(request: BaseRequest) -> str:
    """Give the common name of the client certificate, which TLS has verified; empty without one."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    for attributes in (certificate or {}).get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return ""


def server_tls(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Give the TLS context of the server; client certificates are asked for and checked when a CA is given.

    Raises:
        OSError: for a missing file, and as ssl.SSLError for one that is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
