# SPDX-License-Identifier: Apache-2.0
"""Where the API server is and who we are, as the `kubernetes` client reads it; the only importer of that client.

Kubeconfig (client certificates, tokens, token files, exec plugins, OIDC, proxies, CA), the service account of a pod,
and the transport with its TLS context are the library's. What is added: credentials are read again when they are a
minute old at the next request, or when the API server says 401, so rotated token and certificate files are picked up
without a restart; watches in progress end on the connections they began on.
"""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.lifecycle import describe
from pointsman_model.names import is_loopback, parse_address

REFRESH_SECONDS: Final = 60.0
_READ_BUFFER_BYTES: Final = 256 << 10
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Transport(RESTClientObject):  # type: ignore[misc] # the library ships no types
    """The library's transport, with TCP keepalive: a severed connection is noticed after 30 s, not 2 h."""

    def __init__(self, configuration: Configuration, loader: Any) -> None:
        super().__init__(configuration)
        self.loader = loader
        self.stamp = _file_stamp(configuration)
        self.request_count = 0
        self.is_retired = False

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_keepalive_socket)

    async def release(self) -> None:
        """One request is over; a retired transport closes with its last."""
        self.request_count -= 1
        await self.close_if_unused()

    async def close_if_unused(self) -> None:
        """Close the connections if this transport was replaced and nothing uses it any more."""
        if self.is_retired and self.request_count == 0:
            await self.close()


class Access:
    """The present transport and credentials."""

    def __init__(self, *, kubeconfig: str, context: str, clock: Clock) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._clock = clock
        self._transport: Transport | None = None
        self._loaded_at = 0.0
        self._is_doubted = False
        # Four reflectors ask at once; an exec plugin must run once for them all.
        self._refreshing = asyncio.Lock()
        self.server = ""
        """Base URL that `check` found."""

    async def acquire(self) -> tuple[Transport, str, dict[str, str]]:
        """Transport, base URL and headers for one request; call `release` of the transport when it is over.

        Raises:
            ConfigError: there is no usable configuration, and there was none before.
        """
        async with self._refreshing:
            if self._is_stale():
                await self._refresh()
        transport = self._transport
        if transport is None:
            raise ConfigError("no access to an API server was loaded")
        configuration = transport.configuration
        authorization = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {"Accept": "application/json"}
        if authorization:
            headers["Authorization"] = str(authorization).strip()
        transport.request_count += 1
        return transport, configuration.host.rstrip("/"), headers

    async def check(self) -> None:
        """Load the configuration now, so that a wrong one ends the process with its reason. ConfigError."""
        transport, self.server, _ = await self.acquire()
        await transport.release()

    def doubt(self) -> None:
        """The API server refused our credentials: read them again before the next request."""
        self._is_doubted = True

    async def close(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    def _is_stale(self) -> bool:
        is_old = self._clock.monotonic() - self._loaded_at > REFRESH_SECONDS
        return self._transport is None or self._is_doubted or is_old

    async def _refresh(self) -> None:
        """Read everything again; without success, go on with what there is."""
        present = self._transport
        try:
            transport = await self._load(present)
        except ConfigError as error:
            if present is None:
                raise
            structlog.get_logger("kube").warning(
                "credentials cannot be read again; going on with those before", error=str(error)
            )
            transport = present
        self._loaded_at = self._clock.monotonic()
        self._is_doubted = False
        if transport is not present:
            self._transport = transport
            if present is not None:
                present.is_retired = True
                await present.close_if_unused()

    async def _load(self, present: Transport | None) -> Transport:
        """The transport for the configuration as it is now: the present one if only the token changed."""
        if present is not None and not self._is_doubted and _is_exec_credential_valid(present.loader):
            return present
        configuration = Configuration()
        try:
            loader = await self._load_configuration(configuration)
            _check(configuration, loader)
            configuration.client_session_kwargs = {
                "read_bufsize": _READ_BUFFER_BYTES,
                # Like Go's clients: a proxy of the environment is never used for loopback.
                "trust_env": not _is_local(configuration.host),
                "cookie_jar": aiohttp.DummyCookieJar(),
            }
            transport = Transport(configuration, loader)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"cannot use {self._source()}: {describe(error)}") from error
        if (
            present is not None
            and _is_same_peer(present.configuration, configuration)
            and present.stamp == transport.stamp
        ):
            present.configuration.api_key = configuration.api_key
            present.configuration.refresh_api_key_hook = configuration.refresh_api_key_hook
            present.loader = loader
            return present
        return transport

    async def _load_configuration(self, configuration: Configuration) -> Any:
        if not self._kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST"):
            kube_config.load_incluster_config(client_configuration=configuration)
            return None
        path = self._existing_path()
        return await kube_config.load_kube_config(
            config_file=path,
            context=self._context or None,
            client_configuration=configuration,
            persist_config=False,
        )

    def _existing_path(self) -> str:
        path: str = self._kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
        if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep) if part):
            raise ConfigError(f"no kubeconfig at {path} and this is no pod: give kubernetes.kubeconfig or --kubeconfig")
        return path

    def _source(self) -> str:
        if not self._kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST"):
            return "the service account of this pod"
        context = f", context {self._context}" if self._context else ""
        return f"kubeconfig {self._kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION}{context}"


def _check(configuration: Configuration, loader: Any) -> None:
    """Refuse what would only fail later with a riddle."""
    parts = urlsplit(configuration.host)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"the cluster's server {configuration.host!r} is no http(s) URL")
    user = getattr(loader, "_user", None)  # the library does not say otherwise which kind of user was chosen
    if user is not None and "exec" in user and not (configuration.api_key or configuration.cert_file):
        raise ConfigError(
            "the exec credential plugin gave neither a token nor a certificate (its error is logged above)"
        )


def _is_exec_credential_valid(loader: Any) -> bool:
    """Whether an exec plugin said until when its credential is good, and that is not over; it is not run before."""
    expiry = getattr(loader, "exec_plugin_expiry", None)
    return expiry is not None and expiry.timestamp() - 60 > _now(expiry)


def _now(expiry: Any) -> float:
    now: float = type(expiry).now(expiry.tzinfo).timestamp()
    return now


def _is_same_peer(one: Configuration, other: Configuration) -> bool:
    names = ("host", "ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "tls_server_name", "proxy")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _file_stamp(configuration: Configuration) -> tuple[tuple[int, int], ...]:
    """Changes when a certificate file is replaced."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    stats = [Path(path).stat() for path in paths if path]
    return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(parse_address(host))
    except ValueError:
        return host == "localhost"


def _keepalive_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = info
    created = socket.socket(family, kind, protocol)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        created.setsockopt(socket.IPPROTO_TCP, option, value)
    return created
