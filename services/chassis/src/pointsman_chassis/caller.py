# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a call: the holder of a certificate that TLS has verified, or of a token, or nobody."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

AUTHENTICATED: Final = "system:authenticated"
"""Group of every caller that has shown who it is."""
_CERTIFICATES_KEPT: Final = 4096
"""Parsed certificates in memory, a few hundred bytes each."""


class Proof(Enum):
    """How a caller has shown who it is."""

    PLAINTEXT = "plaintext"
    """Not at all, on a server that is configured for loopback alone and asks nobody."""
    NOTHING = "nothing"
    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    """One that the API server vouches for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An identity, as long as its proof is good."""

    proof: Proof
    user: str = ""
    """Common name of the certificate, or user name of the token."""
    groups: frozenset[str] = frozenset()
    """Organisations of the certificate, or groups of the token; with AUTHENTICATED for both."""
    names: frozenset[str] = frozenset()
    """Names that it may go by where names are compared: of a certificate all, of a token those it is bound to."""
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What the API server said beside it."""
    expires_at: float | None = None
    """Seconds since 1970 from which the proof is worth nothing."""

    @property
    def is_known(self) -> bool:
        """Whether it has shown who it is."""
        return self.proof in {Proof.CERTIFICATE, Proof.TOKEN}

    def __str__(self) -> str:
        return f"user {self.user[:256]!r}" if self.is_known else "an anonymous caller"


PLAINTEXT: Final = Caller(proof=Proof.PLAINTEXT)
NOBODY: Final = Caller(proof=Proof.NOTHING)


def certificate_caller(auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
    """The caller of gRPC's auth context; NOBODY when it has shown no certificate."""
    for pem in auth_context.get("x509_pem_cert", ()):
        return _parsed(pem)
    return NOBODY


@functools.lru_cache(maxsize=_CERTIFICATES_KEPT)
def _parsed(pem: bytes) -> Caller:
    """The same certificate comes with each call. TLS has verified it; what cannot be parsed names nobody."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        users = _values(certificate.subject, NameOID.COMMON_NAME)
        groups = _values(certificate.subject, NameOID.ORGANIZATION_NAME)
        alternatives = _alternatives(certificate)
    except ValueError:
        return NOBODY
    return Caller(
        proof=Proof.CERTIFICATE,
        user=users[0] if users else "",
        groups=frozenset((*groups, AUTHENTICATED)),
        names=frozenset((*users, *alternatives)),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def _values(name: x509.Name, kind: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(kind)]


def _alternatives(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName) + names.get_values_for_type(x509.UniformResourceIdentifier)
