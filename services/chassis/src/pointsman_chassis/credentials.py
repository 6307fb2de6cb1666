# SPDX-License-Identifier: Apache-2.0
"""The credentials of servers and channels, from the files of a `TransportSecurity`.

Certificates and tokens are rotated by replacing the files. A server looks at them at every handshake; a client reads
certificates when it opens a channel, and its token at every call.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import grpc

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tls import TransportSecurity

_Stamp: TypeAlias = tuple[tuple[int, int], ...]


def server_credentials(security: TransportSecurity, *, asks_certificate: bool = True) -> grpc.ServerCredentials | None:
    """Credentials of a server, which demands a certificate of clients unless told not to; None for plaintext.

    Raises:
        ConfigError: files are missing or unusable.
    """
    if security.insecure:
        return None
    _require_files(security)
    if not security.cert_file:
        raise ConfigError("security: a server needs certFile and keyFile; a token is for those who dial")
    reloader = _Reloader(security)
    return grpc.dynamic_ssl_server_credentials(
        reloader.current(),
        reloader.changed,  # type: ignore[arg-type] # None means "keep the present one"; the stubs do not know
        require_client_authentication=asks_certificate,
    )


def channel_credentials(security: TransportSecurity) -> grpc.ChannelCredentials | None:
    """Credentials that present our certificate and token, or None for plaintext. ConfigError for unusable files."""
    if security.insecure:
        return None
    _require_files(security)
    has_certificate = bool(security.cert_file)
    transport = grpc.ssl_channel_credentials(
        root_certificates=_read(security.ca_file),
        private_key=_read(security.key_file) if has_certificate else None,
        certificate_chain=_read(security.cert_file) if has_certificate else None,
    )
    if not security.token_file:
        return transport
    _read(security.token_file)
    calls = grpc.metadata_call_credentials(_TokenFile(security.token_file), name="token-file")
    return grpc.composite_channel_credentials(transport, calls)


def _require_files(security: TransportSecurity) -> None:
    if not security.ca_file:
        raise ConfigError("security: give certFile, keyFile and caFile, or say `insecure: true` for plaintext")


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
