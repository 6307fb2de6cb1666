# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom: mutual TLS from three files, or plaintext within a machine when the configuration says so.

Settings only: what gRPC makes of them is in `credentials`, so that who reads a configuration does not import gRPC.
"""

import ipaddress

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import Settings


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
