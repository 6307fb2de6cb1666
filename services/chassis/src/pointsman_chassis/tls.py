# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom: mutual TLS from three files, or plaintext within a machine when the configuration says so.

Certificates and tokens are rotated by replacing the files. A server looks at them at every handshake; a client reads
certificates when it opens a channel, and its token at every call.
"""

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import grpc

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import Settings

_Stamp: TypeAlias = tuple[tuple[int, int], ...]


class TransportSecurity(Settings, frozen=True, kw_only=True):
    """The `security` section of anything that listens or dials.

    Either all three files, or `insecure: true`; who only dials, and has a token, needs nothing but that and caFile.
    """

    insecure: bool = False
    """Plaintext, on loopback or a unix socket. Never assumed: an operator writes it down."""
    cert_file: str = ""
    """PEM certificate chain of this process."""
    key_file: str = ""
    """PEM private key of this process."""
    ca_file: str = ""
    """PEM bundle of authorities that the other side's certificate must chain to."""
    server_name: str = ""
    """Name to expect in the server's certificate when it is dialled by another name or by address."""
    token_file: str = ""
    """File with a token that servers are shown with each call, such as a projected service account token."""

    def __post_init__(self) -> None:
        """Refuse half a configuration."""
        files = (self.cert_file, self.key_file, self.ca_file)
        if self.insecure and (any(files) or self.token_file):
            raise ValueError("insecure: true excludes certFile, keyFile, caFile and tokenFile")
        if bool(self.cert_file) != bool(self.key_file) or (
            bool(self.ca_file) != bool(self.cert_file or self.token_file)
        ):
            raise ValueError("certFile, keyFile and caFile must be given together, or tokenFile and caFile")

    def server_credentials(self, *, asks_certificate: bool = True) -> grpc.ServerCredentials | None:
        """Credentials of a server, which demands a certificate of clients unless told not to; None for plaintext.

        Raises:
            ConfigError: files are missing or unusable.
        """
        if self.insecure:
            return None
        self._require_files()
        if not self.cert_file:
            raise ConfigError("security: a server needs certFile and keyFile; a token is for those who dial")
        reloader = _Reloader(self)
        return grpc.dynamic_ssl_server_credentials(
            reloader.current(),
            reloader.changed,  # type: ignore[arg-type] # None means "keep the present one"; the stubs do not know
            require_client_authentication=asks_certificate,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials that present our certificate and token, or None for plaintext. ConfigError for unusable files."""
        if self.insecure:
            return None
        self._require_files()
        has_certificate = bool(self.cert_file)
        transport = grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file) if has_certificate else None,
            certificate_chain=_read(self.cert_file) if has_certificate else None,
        )
        if not self.token_file:
            return transport
        _read(self.token_file)
        calls = grpc.metadata_call_credentials(_TokenFile(self.token_file), name="token-file")
        return grpc.composite_channel_credentials(transport, calls)

    def _require_files(self) -> None:
        if not self.ca_file:
            raise ConfigError("security: give certFile, keyFile and caFile, or say `insecure: true` for plaintext")


def require_local(address: str, *, what: str) -> None:
    """Plaintext does not leave the machine.

    Raises:
        ConfigError: `address` (`host:port`, `unix:path`) is neither loopback nor a unix socket.
    """
    if not is_local(address):
        raise ConfigError(
            f"cannot {what} {address} in plaintext: `insecure: true` is for loopback addresses and unix sockets; "
            "give certFile, keyFile and caFile"
        )


def is_local(address: str) -> bool:
    """Whether a gRPC address stays within the machine: `localhost`, 127.0.0.0/8, ::1, a unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _TokenFile(grpc.AuthMetadataPlugin):
    """Reads the token anew for every call, so that a rotated one is shown by the next."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(
        self,
        context: grpc.AuthMetadataContext,  # noqa: ARG002 - given by gRPC
        callback: Callable[[tuple[tuple[str, str], ...], Exception | None], None],
    ) -> None:
        """Give the call its header; gRPC asks on a thread of its own."""
        try:
            token = _read(self._path).decode("ascii").strip()
        except (ConfigError, UnicodeDecodeError) as error:
            callback((), error)
            return
        callback((("authorization", f"Bearer {token}"),), None)


class _Reloader:
    """Reads the certificate files again once any of them has changed on disk."""

    def __init__(self, security: TransportSecurity) -> None:
        self._security = security
        self._stamp = self._read_stamp()

    def current(self) -> grpc.ServerCertificateConfiguration:
        """The configuration from the files as they are now."""
        pair = (_read(self._security.key_file), _read(self._security.cert_file))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=_read(self._security.ca_file))

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """A new configuration, or None to keep the present one: nothing changed, or a rotation is half done."""
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return None
            configuration = self.current()
        except (ConfigError, OSError):
            return None
        self._stamp = stamp
        return configuration

    def _read_stamp(self) -> _Stamp:
        paths = (self._security.cert_file, self._security.key_file, self._security.ca_file)
        try:
            stats = [os.stat(path) for path in paths]  # noqa: PTH116 - called at every handshake; pathlib adds only cost
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
