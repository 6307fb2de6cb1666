# SPDX-License-Identifier: Apache-2.0
"""The lab's certificates and kubeconfigs: one CA, a server certificate, one client certificate, valid for some days."""

import base64
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_DAYS = 30
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """Where the PEM files are."""

    ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


def pki_paths(directory: Path) -> Pki:
    """The files of a directory made by `create_pki`."""
    return Pki(
        ca=directory / "ca.crt",
        server_certificate=directory / "server.crt",
        server_key=directory / "server.key",
        client_certificate=directory / "admin.crt",
        client_key=directory / "admin.key",
    )


def create_pki(directory: Path, addresses: Sequence[str], names: Sequence[str]) -> Pki:
    """Makes CA, server certificate for the addresses and names, and the administrator's client certificate."""
    paths = pki_paths(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pointsman-lab")])
    ca_builder = _builder(ca_name, ca_name, ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    ca_builder = ca_builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
    )
    paths.ca.write_bytes(_pem(ca_builder.sign(ca_key, hashes.SHA256())))
    alternatives = x509.SubjectAlternativeName(
        [
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
            *(x509.DNSName(name) for name in names),
        ]
    )
    _issue(
        (paths.server_certificate, paths.server_key),
        [x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")],
        (ca_name, ca_key),
        ExtendedKeyUsageOID.SERVER_AUTH,
        alternatives,
    )
    _issue(
        (paths.client_certificate, paths.client_key),
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "lab-admin"),
        ],
        (ca_name, ca_key),
        ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    return paths


def kubeconfig(pki: Pki, server: str, name: str) -> str:
    """A kubeconfig with everything inside, as YAML."""
    context = f"pointsman-lab-{name}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": _data(pki.ca)}}],
        "users": [
            {
                "name": context,
                "user": {
                    "client-certificate-data": _data(pki.client_certificate),
                    "client-key-data": _data(pki.client_key),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context, "namespace": "default"}}],
        "current-context": context,
    }
    return yaml.safe_dump(document, sort_keys=False)


def client_tls(pki: Pki) -> ssl.SSLContext:
    """The TLS context of the administrator's client."""
    context = ssl.create_default_context(cafile=pki.ca)
    context.load_cert_chain(pki.client_certificate, pki.client_key)
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
    )


def _issue(
    paths: tuple[Path, Path],
    subject: list[x509.NameAttribute[str]],
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey],
    usage: x509.ObjectIdentifier,
    alternatives: x509.SubjectAlternativeName | None = None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(x509.Name(subject), issuer[0], key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()), critical=False
    )
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    paths[0].write_bytes(_pem(builder.sign(issuer[1], hashes.SHA256())))
    paths[1].touch(mode=0o600)
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
