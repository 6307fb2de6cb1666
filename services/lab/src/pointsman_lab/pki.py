# SPDX-License-Identifier: Apache-2.0
"""The lab's authority, certificates and kubeconfigs, valid for some days.

One authority signs everything: the API server, its administrator, and one certificate for each process of Pointsman,
by which it both serves and dials. The authority's key stays in the lab's directory, so that a test can sign more.
"""

import base64
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN_NAME = "lab-admin"
ADMIN_GROUP = "system:masters"
_AUTHORITY_NAME = "pointsman-lab"
_VALID_DAYS = 30
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Where the PEM files of one holder are."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """Where the PEM files are."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.directory / "ca.key"

    @property
    def server(self) -> Identity:
        """The API server's."""
        return self.identity("server")

    @property
    def admin(self) -> Identity:
        """The administrator's, who may do everything."""
        return self.identity("admin")

    def identity(self, name: str) -> Identity:
        """The files of a holder, whether they exist or not."""
        return Identity(certificate=self.directory / f"{name}.crt", key=self.directory / f"{name}.key", ca=self.ca)


def create_pki(directory: Path, addresses: Sequence[str], names: Sequence[str]) -> Pki:
    """Makes the authority, the API server's certificate for the addresses and names, and the administrator's."""
    pki = Pki(directory=directory)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAME)])
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    pki.ca.write_bytes(_pem(builder.sign(key, hashes.SHA256())))
    _write_key(pki.ca_key, key)
    issue(pki, "server", common_name="kube-apiserver", addresses=addresses, names=names)
    issue(pki, "admin", common_name=ADMIN_NAME, organization=ADMIN_GROUP)
    return pki


def issue(
    pki: Pki,
    name: str,
    *,
    common_name: str,
    organization: str = "",
    addresses: Iterable[str] = (),
    names: Iterable[str] = (),
) -> Identity:
    """Makes a key and a certificate, good for serving at the addresses and names and for dialling.

    An identity that exists is replaced.
    """
    identity = pki.identity(name)
    authority = x509.load_pem_x509_certificate(pki.ca.read_bytes())
    authority_key = serialization.load_pem_private_key(pki.ca_key.read_bytes(), None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{pki.ca_key} is no key of this lab")
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        *(x509.DNSName(each) for each in names),
    ]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if alternatives else [])]
    builder = _builder(x509.Name(attributes), authority.subject, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    _write_key(identity.key, key)
    identity.certificate.write_bytes(_pem(builder.sign(authority_key, hashes.SHA256())))
    return identity


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
                    "client-certificate-data": _data(pki.admin.certificate),
                    "client-key-data": _data(pki.admin.key),
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
    context.load_cert_chain(pki.admin.certificate, pki.admin.key)
    return context


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """What a gRPC client of the lab dials with."""
    return grpc.ssl_channel_credentials(
        root_certificates=identity.ca.read_bytes(),
        private_key=identity.key.read_bytes(),
        certificate_chain=identity.certificate.read_bytes(),
    )


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


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
