# SPDX-License-Identifier: Apache-2.0
"""Single requests to the API server, with the standard library.

A client library would cost more memory than the rest of an enforcer, for one request after a cold boot. Whoever asks
reads the kubeconfig or the service account anew for each request, so rotated files are taken up. Calls block.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pointsman_chassis.errors import PointsmanError
from pointsman_chassis.settings import parse_yaml

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS: Final = 5.0
_BYTES_MAX: Final = 8 * 1024 * 1024
_ANSWERED: Final = (http.client.OK, http.client.CREATED)


class ApiAccessError(PointsmanError):
    """The API server could not be asked; the text says what was tried and what to do.

    `status` is that of the last server that answered at all; 0 = none did.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _StatusError(ValueError):
    """A server answered, with another status than was hoped for."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}: {body[:200].decode(errors='replace')}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """Where API servers are, and who we are to them. Certificates and keys are PEM."""

    servers: tuple[str, ...]
    """`https://host:port`, tried in order."""
    authority: str = ""
    """Empty = the machine's authorities."""
    server_name: str = ""
    """Name to expect in the server's certificate, where it is not the host."""
    token: str = ""
    certificate: str = ""
    key: str = ""

    def get(self, path: str) -> bytes:
        """The body of a path, from the first server that answers with 200.

        Raises:
            ApiAccessError: none did.
        """
        return self._first("GET", path, None)

    def post(self, path: str, body: bytes) -> bytes:
        """What the first server that takes a JSON body answers. Raises ApiAccessError when none does."""
        return self._first("POST", path, body)

    def _first(self, method: str, path: str, body: bytes | None) -> bytes:
        problems, status = [], 0
        for server in self.servers:
            try:
                return self._ask(server, method, path, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems.append(f"{server}: {str(error) or type(error).__name__}")
                status = error.status if isinstance(error, _StatusError) else status
        raise ApiAccessError(f"{method} {path}: {'; '.join(problems)}", status=status)

    def _ask(self, server: str, method: str, path: str, asked: bytes | None) -> bytes:
        url = urlsplit(server)
        if url.scheme != "https" or not url.hostname:
            raise ValueError("not an https:// address")
        connection = _Connection(url.hostname, url.port or 443, self._context(), self.server_name)
        try:
            headers = {"Accept": "application/json"}
            if self.token:
                headers["Authorization"] = f"Bearer {self.token}"
            if asked is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, url.path.rstrip("/") + path, body=asked, headers=headers)
            answer = connection.getresponse()
            body = answer.read(_BYTES_MAX + 1)
            if answer.status not in _ANSWERED:
                raise _StatusError(answer.status, body)
            if len(body) > _BYTES_MAX:
                raise ValueError(f"the answer has more than {_BYTES_MAX} bytes")
            return body
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority or None)
        if self.certificate:
            # The library takes a client certificate from a file only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(f"{self.certificate}\n{self.key}\n")
                file.flush()
                context.load_cert_chain(file.name)
        return context


class _Connection(http.client.HTTPSConnection):
    """A connection whose certificate may have another name than the host."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port, context=context, timeout=TIMEOUT_SECONDS)
        self._tls, self._name = context, server_name or host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def service_account(servers: tuple[str, ...], directory: Path = SERVICE_ACCOUNT) -> ApiAccess:
    """Access with the service account of this pod. Raises ApiAccessError when there is none."""
    try:
        token, authority = (directory / "token").read_text(), (directory / "ca.crt").read_text()
    except OSError as error:
        raise ApiAccessError(
            f"no service account in this pod: cannot read {error.filename}: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ApiAccessError(f"{directory}: token and ca.crt are text: {error}") from error
    return ApiAccess(servers=tuple(map(_url, servers)), authority=authority, token=token.strip())


def kubeconfig(path: Path, servers: tuple[str, ...] = ()) -> ApiAccess:
    """Access as the current context of a kubeconfig says; `servers` take the place of its server.

    Raises:
        ApiAccessError: the file cannot be read, or says too little, or needs a credential plugin.
    """
    try:
        [document] = parse_yaml(path.read_bytes(), source=str(path))
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"] or {}
        if "exec" in user or "auth-provider" in user:
            raise ApiAccessError(f"{path}: credential plugins are not run here; give a token or a client certificate")
        return ApiAccess(
            servers=tuple(map(_url, servers)) or (str(cluster["server"]),),
            authority=_pem(cluster, "certificate-authority", path.parent),
            server_name=str(cluster.get("tls-server-name", "")),
            token=_token(user, path.parent),
            certificate=_pem(user, "client-certificate", path.parent),
            key=_pem(user, "client-key", path.parent),
        )
    except OSError as error:
        raise ApiAccessError(f"{path}: cannot read {error.filename}: {error.strerror}") from error
    except PointsmanError as error:
        raise ApiAccessError(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise ApiAccessError(f"{path}: not a kubeconfig with a current context ({error!r})") from error


def _url(server: str) -> str:
    return server if "://" in server else f"https://{server}"


def _named(document: Mapping[str, Any], kind: str, name: str) -> Any:
    return next(each for each in [*document[kind], {"name": name}] if each["name"] == name)


def _token(user: Mapping[str, Any], directory: Path) -> str:
    if user.get("token"):
        return str(user["token"])
    return (directory / user["tokenFile"]).read_text().strip() if user.get("tokenFile") else ""


def _pem(section: Mapping[str, Any], name: str, directory: Path) -> str:
    """A certificate or key: in the file, or in one it names, relative to it."""
    if section.get(f"{name}-data"):
        return base64.b64decode(section[f"{name}-data"], validate=True).decode("ascii")
    return (directory / section[name]).read_text() if section.get(name) else ""
