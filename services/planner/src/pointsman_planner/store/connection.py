# SPDX-License-Identifier: Apache-2.0
"""From a URL and the files beside it to a Redis client: a single server, one that Sentinels name, or a Cluster.

This is the only module that makes clients and that sees passwords. They come from the URL, a file (read again for
each connection, so that it can be rotated) or a variable of the environment, and are in no message that it writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import Settings
from pointsman_chassis.tls import is_local

CONNECTIONS_MAX = 10
"""Of one planner to one server."""
_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_FORMS = (
    "memory://, redis://host:port/db, rediss://host:port/db, unix:///path?db=0, redis+sentinel://host,host/name/db, "
    "redis+cluster://host,host (rediss+sentinel:// and rediss+cluster:// for TLS)"
)
_PASSWORD_IN_TEXT = re.compile(r"//.*@")


class RedisSettings(Settings, frozen=True, kw_only=True):
    """How to log in to Redis, and how long to wait for it."""

    username: str = ""
    """ACL user; empty = the one of the URL, else the default user."""
    password_file: str = ""
    """File with the password, read for each new connection; a final newline does not count."""
    password_environment: str = ""
    """Name of the environment variable that holds the password."""
    ca_file: str = ""
    """PEM bundle of authorities for rediss://; empty = those of the system."""
    cert_file: str = ""
    """PEM certificate chain to present to Redis; empty = none."""
    key_file: str = ""
    """PEM private key of that."""
    insecure: bool = False
    """Plaintext to another machine, which is refused otherwise: said by whoever trusts the network."""
    sentinel_username: str = ""
    """ACL user at the Sentinels, which have users of their own."""
    sentinel_password_file: str = ""
    """File with the password for the Sentinels."""
    command_timeout: Duration = Duration(2)
    """Longest wait for an answer, and for a connection."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.password_file and self.password_environment:
            raise ValueError("passwordFile and passwordEnvironment exclude each other")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("certFile and keyFile must be given together")
        if not 0.05 <= self.command_timeout <= 60:
            raise ValueError(f"commandTimeout: {self.command_timeout} is not within 50ms and 1m")


class Topology(Enum):
    """What stands behind a URL."""

    MEMORY = "memory"
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """A store URL, taken apart."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of a socket, instead of a host."""
    name: str = ""
    """Of the master, as the Sentinels know it."""
    database: int = 0
    is_tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)


def shown_url(url: str) -> str:
    """The URL without user and password, for logs and /configz."""
    return _PASSWORD_IN_TEXT.sub("//***@", url)


def parse_store_url(url: str) -> StoreAddress:
    """Take a store URL apart; an empty one is memory://.

    Raises:
        ConfigError: it has none of the forms above; the message does not repeat it, since it may hold a password.
    """
    if not url:
        return StoreAddress(topology=Topology.MEMORY)
    try:
        return _parse(urlsplit(url))
    except _UrlError as error:
        raise ConfigError(f"redisURL: {error}; possible are {_FORMS}") from error
    except ValueError:
        # What urllib says repeats pieces of the URL; without its message even the chained exception shows none.
        raise ConfigError(
            f"redisURL: it cannot be taken apart (in a password, write / @ # ? % as %2F %40 %23 %3F %25); "
            f"possible are {_FORMS}"
        ) from None


class _UrlError(ValueError):
    """A URL has another form; the message is ours, and repeats nothing."""


def _parse(parts: SplitResult) -> StoreAddress:
    scheme, plus, kind = parts.scheme.partition("+")
    if parts.scheme == "memory":
        return StoreAddress(topology=Topology.MEMORY)
    if parts.scheme == "unix":
        return _parse_socket(parts)
    if scheme not in ("redis", "rediss") or (plus and kind not in ("sentinel", "cluster")):
        raise _UrlError("the scheme is not known")
    topology = Topology(kind) if plus else Topology.SINGLE
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    port = _SENTINEL_PORT if topology is Topology.SENTINEL else _REDIS_PORT
    found = tuple(_host_and_port(host, port) for host in hosts.split(","))
    if topology is Topology.SINGLE and len(found) > 1:
        raise _UrlError("several hosts are a Cluster's or Sentinels'")
    if parts.query or parts.fragment:
        raise _UrlError("the part after ? or # is not known")
    path = [unquote(piece) for piece in parts.path.strip("/").split("/")] if parts.path.strip("/") else []
    name = path.pop(0) if path and topology is Topology.SENTINEL else ""
    if topology is Topology.SENTINEL and not name:
        raise _UrlError("the name of the master is missing")
    database = _database(path[0]) if path else 0
    if len(path) > 1 or (database and topology is Topology.CLUSTER):
        raise _UrlError("the path is longer than expected (a Cluster has no numbered databases)")
    return StoreAddress(
        topology=topology,
        hosts=found,
        name=name,
        database=database,
        is_tls=scheme == "rediss",
        username=unquote(username),
        password=unquote(password),
    )


def _parse_socket(parts: SplitResult) -> StoreAddress:
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    options = dict(parse_qsl(parts.query))
    database = _database(options.pop("db", "0"))
    if options or not parts.path:
        raise _UrlError("a socket is written unix:///path?db=0")
    return StoreAddress(
        topology=Topology.SINGLE,
        path=parts.path,
        database=database,
        username=unquote(username),
        password=unquote(password),
    )


def _database(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise _UrlError("the number of the database is not a number")
    return int(text)


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    found = urlsplit(f"//{text}")
    if not found.hostname or found.path or "@" in text:
        raise _UrlError("a host is missing")
    return found.hostname, found.port or port


Client = redis.asyncio.Redis | RedisCluster
"""What the Redis implementation speaks to; only the commands that both have are used."""


def check_files(settings: RedisSettings) -> None:
    """Prove that what the settings name is there.

    Raises:
        ConfigError: a file cannot be read, or a variable is not set.
    """
    names = ("ca_file", "cert_file", "key_file", "password_file", "sentinel_password_file")
    for name in names:
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"redis: the file {path} cannot be read")
    if settings.password_environment and settings.password_environment not in os.environ:
        raise ConfigError(f"redis.passwordEnvironment: the variable {settings.password_environment} is not set")


def check_plaintext(address: StoreAddress, settings: RedisSettings) -> None:
    """Refuse what would leave the machine in plaintext without anybody having said so. Raises ConfigError."""
    remote = [host for host, port in address.hosts if not is_local(f"[{host}]:{port}")]
    if remote and not (address.is_tls or address.path or settings.insecure):
        raise ConfigError(
            f"redisURL: {remote[0]} is not on loopback: use rediss://, or say `redis: {{insecure: true}}` for plaintext"
        )


def files_stamp(settings: RedisSettings) -> tuple[tuple[int, int], ...]:
    """Changes when the certificate files do: a client is made anew then, because it reads them once."""
    stamps = []
    for path in (settings.ca_file, settings.cert_file, settings.key_file):
        try:
            found = Path(path).stat() if path else None
        except OSError:
            found = None
        stamps.append((found.st_mtime_ns, found.st_ino) if found else (0, 0))
    return tuple(stamps)


def make_client(address: StoreAddress, settings: RedisSettings) -> Client:
    """A client for any topology but MEMORY; connects when it is first used."""
    options = _common(settings, is_tls=address.is_tls)
    login = _login(address, settings)
    if address.topology is Topology.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        retry = Retry(NoBackoff(), 1)
        return RedisCluster(
            startup_nodes=nodes, max_connections=CONNECTIONS_MAX, retry=retry, **options, **_only_used(login)
        )
    options["retry"] = Retry(NoBackoff(), 0)
    if address.topology is Topology.SENTINEL:
        watchers: Mapping[str, Any] = options | _only_used(
            {"credential_provider": _file_login(settings.sentinel_username, settings.sentinel_password_file)}
        )
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call] # the library leaves it so
            address.hosts, sentinel_kwargs=watchers, db=address.database, **options, **_only_used(login)
        )
        master: redis.asyncio.Redis = sentinel.master_for(address.name, max_connections=CONNECTIONS_MAX)
        return master
    where = (
        {"unix_socket_path": address.path}
        if address.path
        else dict(zip(("host", "port"), address.hosts[0], strict=True))
    )
    return redis.asyncio.Redis(
        db=address.database, max_connections=CONNECTIONS_MAX, **where, **options, **_only_used(login)
    )


def _common(settings: RedisSettings, *, is_tls: bool) -> dict[str, Any]:
    timeout = float(settings.command_timeout)
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "protocol": 2,
    }
    if is_tls:
        options |= {
            "ssl": True,
            "ssl_check_hostname": True,
            "ssl_ca_certs": settings.ca_file or None,
            "ssl_certfile": settings.cert_file or None,
            "ssl_keyfile": settings.key_file or None,
        }
    elif settings.ca_file or settings.cert_file:
        raise ConfigError("redis: caFile and certFile are of use with a rediss URL only")
    return options


def _login(address: StoreAddress, settings: RedisSettings) -> dict[str, Any]:
    username = settings.username or address.username
    if settings.password_file:
        return {"credential_provider": _file_login(username, settings.password_file)}
    password = os.environ.get(settings.password_environment, "") if settings.password_environment else address.password
    return {"username": username or None, "password": password or None}


def _only_used(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _file_login(username: str, path: str) -> CredentialProvider | None:
    return _FileLogin(username, path) if path else None


class _FileLogin(CredentialProvider):
    """User and password for each new connection."""

    def __init__(self, username: str, path: str) -> None:
        self._username = username
        self._path = Path(path)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read the file again."""
        try:
            password = self._path.read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise RedisConnectionError(f"the password file {self._path} cannot be read") from error
        return (self._username, password) if self._username else (password,)
