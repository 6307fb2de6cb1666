# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom: mutual TLS from three files, or plaintext when the configuration says so in plain words.

Certificates are rotated by replacing the files. A server looks at them at every handshake; a client reads them when
it opens a channel.
"""

import os
from pathlib import Path
from typing import TypeAlias

import grpc

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import Settings

_Stamp: TypeAlias = tuple[tuple[int, int], ...]


class TransportSecurity(Settings, frozen=True, kw_only=True):
    """The `security` section of anything that listens or dials. Either `insecure: true` or all three files."""

    insecure: bool = False
    """Plaintext. Never assumed: an operator writes it down."""
    cert_file: str = ""
    """PEM certificate chain of this process."""
    key_file: str = ""
    """PEM private key of this process."""
    ca_file: str = ""
    """PEM bundle of authorities that the other side's certificate must chain to."""
    server_name: str = ""
    """Name to expect in the server's certificate when it is dialled by another name or by address."""

    def __post_init__(self) -> None:
        """Refuse half a configuration."""
        files = (self.cert_file, self.key_file, self.ca_file)
        if self.insecure and any(files):
            raise ValueError("insecure: true excludes certFile, keyFile and caFile")
        if not self.insecure and any(files) and not all(files):
            raise ValueError("certFile, keyFile and caFile must be given together")

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Credentials that demand a client certificate, or None for plaintext. ConfigError when files are unusable."""
        if self.insecure:
            return None
        self._require_files()
        reloader = _Reloader(self)
        return grpc.dynamic_ssl_server_credentials(
            reloader.current(),
            reloader.changed,  # type: ignore[arg-type] # None means "keep the present one"; the stubs do not know
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials that present our certificate, or None for plaintext. ConfigError when files are unusable."""
        if self.insecure:
            return None
        self._require_files()
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )

    def _require_files(self) -> None:
        if not self.ca_file:
            raise ConfigError("security: give certFile, keyFile and caFile, or say `insecure: true` for plaintext")


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
