# SPDX-License-Identifier: Apache-2.0
"""Decides for a planner who calls and what he may do (`pointsman_chassis.guard`).

A bearer token, where tokens are taken, says who calls; else the certificate. Whether an enforcer may have a node's plan
is decided when it has named the node; here it need only be known.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from pointsman_chassis.caller import PLAINTEXT, Caller, Proof, certificate_caller
from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ForbiddenError, OverloadError, StaleVersionError, UnauthenticatedError
from pointsman_chassis.guard import GuardedContext, peer_host
from pointsman_chassis.rate import RateLimiter
from pointsman_planner.access.answers import Answers
from pointsman_planner.access.methods import right_of
from pointsman_planner.access.reviews import Reviews
from pointsman_planner.access.rule_book import RuleBook
from pointsman_planner.access.settings import AccessSettings
from pointsman_planner.core.rights import ANY, EVERYTHING, NOTHING, Right, Sight, sight

STREAM_PLAN: Final = "/pointsman.plan.v1.PlanService/StreamNodePlan"
_HEALTH: Final = "/grpc.health.v1.Health/"
_REFLECTION: Final = ("/grpc.reflection.v1alpha.", "/grpc.reflection.v1.")
_TOKENS_KEPT: Final = 20_000
_RIGHTS_KEPT: Final = 50_000
_REVIEWS_PER_SECOND: Final = 20.0
_REVIEWS_BURST: Final = 100
"""Tokens that one address may have reviewed: nonsense must not become the API server's load."""


class PlannerGate:
    """The gate of one planner."""

    def __init__(
        self,
        *,
        settings: AccessSettings,
        is_plaintext: bool,
        reviews: Reviews,
        namespaces: Callable[[], Iterable[str]],
        clock: Clock,
    ) -> None:
        """`namespaces` are those in which there is anything; ConfigError when the rules file cannot be used."""
        self._settings = settings
        self._is_plaintext = is_plaintext
        self._reviews = reviews
        self._namespaces = namespaces
        self._clock = clock
        self._book = RuleBook(settings)
        tokens = settings.tokens
        self._takes_tokens = bool(tokens.listen_address)
        self._tokens: Answers[Caller] = Answers(
            fresh_seconds=tokens.cache_for, stale_seconds=tokens.stale_for, size_max=_TOKENS_KEPT, clock=clock
        )
        self._rights: Answers[bool] = Answers(
            fresh_seconds=settings.review_cache_for,
            stale_seconds=tokens.stale_for,
            size_max=_RIGHTS_KEPT,
            clock=clock,
        )
        self._review_rates = RateLimiter(per_second=_REVIEWS_PER_SECOND, burst=_REVIEWS_BURST)

    async def identify(self, context: Any) -> Caller:
        """See `Gate.identify`."""
        if self._is_plaintext:
            return PLAINTEXT
        token = _bearer(context.invocation_metadata()) if self._takes_tokens else ""
        if token:
            return await self._holder(token, peer_host(context.peer()))
        return certificate_caller(context.auth_context())

    async def authorize(self, caller: Caller, method: str, request: Any) -> Sight:
        """See `Gate.authorize`: what the caller sees of the answer."""
        if caller.proof is Proof.PLAINTEXT or method.startswith(_HEALTH):
            return EVERYTHING
        if not caller.is_known:
            raise UnauthenticatedError("show a client certificate, or a bearer token where tokens are taken")
        if method == STREAM_PLAN or method.startswith(_REFLECTION):
            return EVERYTHING
        right = right_of(method, request)
        if right is None:
            raise ForbiddenError(f"no right is known that would allow {method}")
        seen = await self._sight(caller, right)
        if seen == NOTHING or not (right.is_filtered or seen.sees(right.namespace)):
            raise ForbiddenError(_missing(caller, right, asks_api_server=self._settings.access_review))
        return seen if right.is_filtered else EVERYTHING

    def recheck_seconds(self, caller: Caller, method: str) -> float:
        """See `Gate.recheck_seconds`."""
        if caller.proof is Proof.PLAINTEXT or method.startswith((_HEALTH, *_REFLECTION)):
            return math.inf
        if method == STREAM_PLAN:
            return float(self._settings.tokens.cache_for) if caller.proof is Proof.TOKEN else math.inf
        return float(self._settings.recheck_interval)

    async def recheck(self, context: GuardedContext[Sight], method: str, request: Any) -> None:
        """See `Gate.recheck`; StaleVersionError when the caller sees other things than at the beginning."""
        caller = await self.identify(context)
        if caller.names != context.caller.names:
            raise UnauthenticatedError(f"the proof of {caller} is for other names now; begin anew")
        if await self.authorize(caller, method, request) != context.granted:
            raise StaleVersionError("the namespaces that you may see have changed; watch anew, without a resume token")

    async def _holder(self, token: str, peer: str) -> Caller:
        async def ask() -> Caller | None:
            wait = self._review_rates.take(peer, self._clock.monotonic())
            if wait:
                raise OverloadError(f"too many tokens to review from one address; come back in {wait:.2f} s")
            return await self._reviews.token(token)

        found = await self._tokens.get(hashlib.sha256(token.encode()).hexdigest(), ask)
        if found is None:
            raise UnauthenticatedError(
                f"the API server does not take the token: it is expired, revoked, or not issued for audience "
                f"{self._settings.tokens.audience}"
            )
        return found

    async def _sight(self, caller: Caller, right: Right) -> Sight:
        """Where somebody has a right: by the rules, and by what the API server says of the rest."""
        seen = sight(self._book.rules, caller.user, caller.groups, right)
        if not self._settings.access_review or (not right.is_filtered and seen.sees(right.namespace)):
            return seen
        if await self._is_allowed(caller, right, ""):
            return EVERYTHING
        if not right.is_filtered:
            is_allowed = bool(right.namespace) and await self._is_allowed(caller, right, right.namespace)
            return seen | Sight(frozenset({right.namespace})) if is_allowed else seen
        asked = sorted({each for each in self._namespaces() if each and not seen.sees(each)})
        answers = await asyncio.gather(*(self._is_allowed(caller, right, each) for each in asked))
        return seen | Sight(frozenset(each for each, is_allowed in zip(asked, answers, strict=True) if is_allowed))

    async def _is_allowed(self, caller: Caller, right: Right, namespace: str) -> bool:
        wanted = Right(verb=right.verb, resource=right.resource, namespace=namespace)
        question = repr((caller.user, caller.uid, sorted(caller.groups), caller.extra, wanted))
        key = hashlib.sha256(question.encode()).hexdigest()
        return bool(await self._rights.get(key, lambda: self._reviews.access(caller, wanted)))


def _bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    for name, value in metadata or ():
        if name == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
    return ""


def _missing(caller: Caller, right: Right, *, asks_api_server: bool) -> str:
    wanted = f"{right.verb} {right.resource} in any namespace" if right.is_filtered else str(right)
    namespace = right.namespace or ANY
    text = (
        f"{caller} may not {wanted}: no rule in access.rules gives verb {right.verb}, resource {right.resource}, "
        f"namespace {namespace[:256]}"
    )
    return f"{text}, nor does the API server (group pointsman.io)" if asks_api_server else text
