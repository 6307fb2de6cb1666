# SPDX-License-Identifier: Apache-2.0
"""The two questions that a planner has for the API server: whose token is this, and may somebody do that."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pointsman_chassis.api_access import ApiAccess, ApiAccessError, kubeconfig, service_account
from pointsman_chassis.caller import AUTHENTICATED, Caller, Proof
from pointsman_chassis.errors import UnavailableError
from pointsman_planner.access.settings import AccessSettings
from pointsman_planner.core.rights import Right

API_GROUP: Final = "pointsman.io"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_AT_ONCE: Final = 8
_ANSWER_SECONDS: Final = 10.0
"""For a whole answer: one that comes byte by byte must not hold up those who wait behind it."""
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"

T = TypeVar("T")


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User | None = None
    audiences: list[str] = []


class _TokenReview(msgspec.Struct):
    status: _TokenStatus


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus


class Reviews:
    """Asks, some questions at a time, each on a thread since the client blocks."""

    def __init__(self, open_access: Callable[[], ApiAccess], settings: AccessSettings) -> None:
        self._open_access = open_access
        self._audience = settings.tokens.audience
        self._enforcers = {
            _SERVICE_ACCOUNT + each.replace("/", ":") for each in settings.tokens.enforcer_service_accounts
        }
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def token(self, token: str) -> Caller | None:
        """Whose token this is; None if the API server does not know it, or it is for somebody else than planners.

        Raises:
            UnavailableError: the API server does not answer.
        """
        spec = {"token": token, "audiences": [self._audience]}
        review = await self._ask(_TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", spec, _TokenReview)
        status = review.status
        # A server that knows nothing of audiences names none: then the token may be meant for anybody.
        if not status.authenticated or status.user is None or self._audience not in status.audiences:
            return None
        user = status.user
        nodes = user.extra.get(NODE_NAME, []) if user.username in self._enforcers else []
        return Caller(
            proof=Proof.TOKEN,
            user=user.username,
            uid=user.uid,
            groups=frozenset((*user.groups, AUTHENTICATED)),
            names=frozenset(f"system:node:{node}" for node in nodes if node),
            extra=tuple(sorted((key, tuple(values)) for key, values in user.extra.items())),
            expires_at=_expiry(token),
        )

    async def access(self, caller: Caller, right: Right) -> bool:
        """Whether somebody has a right. Raises UnavailableError when the API server does not answer."""
        attributes = {"group": API_GROUP, "verb": right.verb, "resource": right.resource}
        if right.namespace:
            attributes["namespace"] = right.namespace
        spec = {
            "user": caller.user,
            "uid": caller.uid,
            "groups": sorted(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": attributes,
        }
        api = "authorization.k8s.io/v1"
        review = await self._ask(_ACCESS_REVIEWS, api, "SubjectAccessReview", spec, _AccessReview)
        return review.status.allowed and not review.status.denied

    async def _ask(self, path: str, api_version: str, kind: str, spec: Any, answer: type[T]) -> T:
        body = msgspec.json.encode({"apiVersion": api_version, "kind": kind, "spec": spec})
        async with self._slots:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    content = await asyncio.to_thread(lambda: self._open_access().post(path, body))
                return msgspec.json.decode(content, type=answer)
            except TimeoutError as error:
                raise UnavailableError(f"the API server does not answer a {kind} in time") from error
            except ApiAccessError as error:
                raise UnavailableError(f"the API server does not answer a {kind}: {error}") from error
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise UnavailableError(f"the API server's {kind} cannot be read: {error}") from error


def api_access(settings: AccessSettings) -> ApiAccess:
    """Where the API server is and who we are, read anew. Raises ApiAccessError."""
    if settings.kubeconfig:
        return kubeconfig(Path(settings.kubeconfig), settings.api_servers)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    servers = settings.api_servers or ((f"[{host}]:{port}" if ":" in host else f"{host}:{port}",) if host else ())
    if not servers:
        raise ApiAccessError("no API server is known: give access.kubeconfig or access.apiServers")
    return service_account(servers)


def _expiry(token: str) -> float | None:
    """The `exp` of a JWT that the API server has verified; None for tokens of another kind."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        expiry = msgspec.json.decode(payload).get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, AttributeError, ValueError):
        return None
