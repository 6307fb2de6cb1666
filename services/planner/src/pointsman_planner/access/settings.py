# SPDX-License-Identifier: Apache-2.0
"""The `access` section of PlannerConfiguration, and the file of rules beside it."""

from __future__ import annotations

from typing import Final, Literal

from pointsman_chassis.caller import AUTHENTICATED
from pointsman_chassis.duration import Duration
from pointsman_chassis.settings import Settings
from pointsman_planner.core.rights import Rule

RULES_KIND: Final = "PlannerAccessRules"

Verb = Literal["get", "list", "watch", "explain", "wait", "override", "*"]
Resource = Literal["services", "endpoints", "nodes", "plans", "overrides", "*"]


class RuleSettings(Settings, frozen=True, kw_only=True):
    """Gives rights; there is none that takes some away."""

    users: tuple[str, ...] = ()
    """Common names of certificates, user names of tokens."""
    groups: tuple[str, ...] = ()
    """Organisations of certificates, groups of tokens; `system:authenticated` = everybody who has either."""
    verbs: tuple[Verb, ...] = ("get", "list", "watch", "explain", "wait")
    """`override` is to apply, renew and delete overrides."""
    resources: tuple[Resource, ...] = ("*",)
    """Nodes and plans are of the whole cluster."""
    namespaces: tuple[str, ...] = ()
    """Names of namespaces; `*` = all, and what is of the whole cluster."""

    def __post_init__(self) -> None:
        """Refuse rules that give nobody anything."""
        if not (self.users or self.groups):
            raise ValueError("users or groups: a rule is about somebody")
        if not (self.verbs and self.resources and self.namespaces):
            raise ValueError("verbs, resources and namespaces: none may be empty")

    def rule(self) -> Rule:
        """As the core takes it."""
        return Rule(
            users=frozenset(self.users),
            groups=frozenset(self.groups),
            verbs=frozenset(self.verbs),
            resources=frozenset(self.resources),
            namespaces=frozenset(self.namespaces),
        )


class RulesFile(Settings, frozen=True, kw_only=True):
    """PlannerAccessRules: rules that can be changed while the planner runs."""

    rules: tuple[RuleSettings, ...] = ()
    """Beside those of the planner's configuration."""


class TokenSettings(Settings, frozen=True, kw_only=True):
    """Callers that show a service account token in the place of a certificate. The API server is asked about it."""

    listen_address: str = ""
    """One more address, with TLS, where no certificate is asked for; empty = tokens are not taken."""
    is_advertised: bool = False
    """Whether it is the address that enforcers are told: set it when they have tokens rather than certificates."""
    audience: str = "pointsman-planner"
    """For whom tokens must be issued."""
    enforcer_service_accounts: tuple[str, ...] = ("pointsman-system/pointsman-enforcer",)
    """`namespace/name` of those whose tokens, bound to a node, are for that node's plan."""
    cache_for: Duration = Duration(60)
    """How long an answer of the API server is not asked for again."""
    stale_for: Duration = Duration(600)
    """How long it counts while the API server is away."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 1 <= self.cache_for <= self.stale_for <= 86_400:
            raise ValueError("cacheFor and staleFor: 1s <= cacheFor <= staleFor <= 24h is needed")
        if not self.audience:
            raise ValueError("audience: is needed, lest tokens that were made for others are taken")
        if self.is_advertised and not self.listen_address:
            raise ValueError("isAdvertised: there is no listenAddress to advertise")
        for account in self.enforcer_service_accounts:
            if account.count("/") != 1 or not all(account.split("/")):
                raise ValueError(f"enforcerServiceAccounts: {account} is not namespace/name")


class AccessSettings(Settings, frozen=True, kw_only=True):
    """Who may ask this planner for what. Of no effect with `security: {insecure: true}`, where nobody is known."""

    rules: tuple[RuleSettings, ...] = (RuleSettings(groups=(AUTHENTICATED,), namespaces=("*",)),)
    """Rights of controllers. By default everybody who is known may read, and nobody may override."""
    rules_file: str = ""
    """More rules, kind PlannerAccessRules, read again when the file is replaced."""
    access_review: bool = False
    """Ask the API server, by SubjectAccessReview in group pointsman.io, about rights that no rule gives."""
    review_cache_for: Duration = Duration(10)
    """How long its answer is not asked for again; while it is away, it counts for tokens.staleFor."""
    recheck_interval: Duration = Duration(5)
    """How often the rights of running watches are looked at again."""
    tokens: TokenSettings = TokenSettings()
    """Service account tokens."""
    events: bool = False
    """Write an Event on the Service when a node cannot serve its health check node port. Planners then get Services and
    create Events (`deploy/components/events`). Counts with `insecure: true` too."""
    kubeconfig: str = ""
    """How to reach the API server for reviews and Events; empty = with the service account of the pod."""
    api_servers: tuple[str, ...] = ()
    """host:port of API servers, tried in order, in the place of those of kubeconfig or of the pod's environment."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0.1 <= self.recheck_interval <= 3600:
            raise ValueError(f"recheckInterval: {self.recheck_interval} is not within 100ms and 1h")
        if not 0 <= self.review_cache_for <= self.tokens.stale_for:
            raise ValueError(f"reviewCacheFor: {self.review_cache_for} is not within 0s and tokens.staleFor")
