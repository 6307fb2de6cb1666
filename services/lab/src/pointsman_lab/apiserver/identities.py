# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens that the server knows, and whose they are; for reviews, what their holders may do."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pointsman_lab.apiserver.encoding import Json

API_AUDIENCE: Final = "https://kubernetes.default.svc"
"""Whom tokens are for that do not say."""
NODE_NAME: Final = "authentication.kubernetes.io/node-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whose a token is, for whom, and until when (seconds since 1970; None = for ever)."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audiences: tuple[str, ...] = (API_AUDIENCE,)
    expires_at: float | None = None

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


def account_holder(
    namespace: str, name: str, *, audience: str, node: str = "", expires_at: float | None = None
) -> Holder:
    """What a projected token of a service account names; with the node of its pod, as API servers since 1.30 do."""
    return Holder(
        username=f"system:serviceaccount:{namespace}:{name}",
        uid=f"uid-of-{namespace}-{name}",
        groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"),
        extra={NODE_NAME: (node,)} if node else {},
        audiences=(audience,),
        expires_at=expires_at,
    )


def web_token(holder: Holder, *, serial: int = 0) -> str:
    """A token in the form of a JWT that says the holder's expiry; nobody checks its signature."""
    payload: dict[str, object] = {"sub": holder.username, "aud": list(holder.audiences), "jti": str(serial)}
    if holder.expires_at is not None:
        payload["exp"] = int(holder.expires_at)
    parts: tuple[object, ...] = ({"alg": "none"}, payload, serial)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


class Identities:
    """Tokens, which may be added and removed at any time, and a rule for access reviews, by default yes."""

    def __init__(self, tokens: Mapping[str, str | Holder]) -> None:
        self.tokens: dict[str, Holder] = {
            token: holder if isinstance(holder, Holder) else Holder(username=holder) for token, holder in tokens.items()
        }
        self.allows: Callable[[Json], bool] = _everything

    def user_of(self, token: str) -> str | None:
        """Who asks with this token; None when it is good for nothing here."""
        holder = self.tokens.get(token)
        if holder is None or holder.has_expired or API_AUDIENCE not in holder.audiences:
            return None
        return holder.username


def _everything(_spec: Json) -> bool:
    return True
