# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for tests, written to files as an operator's would be."""

import datetime as dt
import ipaddress
import itertools
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pointsman_chassis.tls import TransportSecurity

_DAY: Final = dt.timedelta(days=1)


class Authority:
    """Signs certificates with a key that lives as long as this object."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._serials = itertools.count(2)
        builder = self._builder(self._name, self._key.public_key())
        self.certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )

    def issue(
        self,
        directory: Path,
        name: str,
        *,
        server_name: str = "",
        trust: "Authority | tuple[Authority, ...] | None" = None,
        groups: tuple[str, ...] = (),
        valid_for: dt.timedelta = _DAY,
    ) -> TransportSecurity:
        """Write key, certificate (its one alternative name is `name`, a DNS name or an IP address) and what is trusted.

        Issuing a name again replaces its files.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(_name(name, groups), key.public_key(), valid_for)
            .add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = _paths(directory, name)
        pem = serialization.Encoding.PEM
        trusted = trust if isinstance(trust, tuple) else (trust or self,)
        no_password = serialization.NoEncryption()
        _replace(files[0], certificate.public_bytes(pem))
        _replace(files[1], key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
        _replace(files[2], b"".join(each.certificate.public_bytes(pem) for each in trusted))
        return certificate_files(directory, name, server_name=server_name)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, valid_for: dt.timedelta = _DAY
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(tz=dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(next(self._serials))
            .not_valid_before(now - _DAY)
            .not_valid_after(now + valid_for)
        )


def certificate_files(directory: Path, name: str, *, server_name: str = "") -> TransportSecurity:
    """The files that `issue` writes for a name."""
    cert_file, key_file, ca_file = map(str, _paths(directory, name))
    return TransportSecurity(cert_file=cert_file, key_file=key_file, ca_file=ca_file, server_name=server_name)


def _paths(directory: Path, name: str) -> list[Path]:
    return [directory / f"{name}.{part}.pem" for part in ("cert", "key", "ca")]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str, groups: tuple[str, ...] = ()) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _replace(path: Path, content: bytes) -> None:
    """As certificate tools do it: a new file renamed over the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)
