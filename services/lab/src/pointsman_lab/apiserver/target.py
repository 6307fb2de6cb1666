# SPDX-License-Identifier: Apache-2.0
"""What a URL means: the resource, the namespace, the name, the subresource and the verb of an API request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.listing import ListOptions
from pointsman_lab.apiserver.resources import BY_PATH
from pointsman_lab.apiserver.selectors import parse_selector
from pointsman_lab.apiserver.watching import WatchOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman_lab.apiserver.resources import Resource

_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_NAMESPACE_PARTS: Final = ("status", "finalize")
_OBJECT_VERBS: Final = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
_COLLECTION_VERBS: Final = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is about; empty strings where the URL names nothing."""

    resource: Resource
    verb: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_target(method: str, path: str, query: Mapping[str, str]) -> Target | None:
    """Read an API request; None when no such group version is served (a plain 404).

    Raises:
        ApiError: 404 for a resource the group does not have, 405 for a verb the resource does not have.
    """
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if not any(key[:2] == (group, version) for key in BY_PATH):
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _NAMESPACE_PARTS:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    name, subresource = (rest[1] if len(rest) > 1 else ""), "/".join(rest[2:])
    if resource is None or (subresource and subresource not in resource.subresources):
        raise errors.resource_not_found()
    if bool(namespace) > resource.namespaced or (name and resource.namespaced and not namespace):
        raise errors.resource_not_found()
    verb = _verb(method, name, query)
    if not subresource and verb not in resource.verbs:
        raise errors.method_not_allowed()
    return Target(resource=resource, verb=verb, namespace=namespace, name=name, subresource=subresource)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method == "GET" and is_true(query, "watch"):
        return "watch"
    verb = (_OBJECT_VERBS if name else _COLLECTION_VERBS).get(method)
    if verb is None:
        raise errors.method_not_allowed()
    return verb


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Tell whether a query parameter is a yes, as Go reads booleans."""
    return query.get(name, "") in _TRUE


def dry_run(query: Mapping[str, str]) -> bool:
    """Tell whether the write is only to be tried.

    Raises:
        ApiError: 400 for another value than All.
    """
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise errors.bad_request(
            f'Invalid value: ["{value}"]: dryRun: Unsupported value: "{value}": supported values: "All"'
        )
    return value == "All"


def number(query: Mapping[str, str], name: str) -> int:
    """Give a query parameter that is a number, 0 when absent.

    Raises:
        ApiError: 400 when it is none.
    """
    text = query.get(name, "")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise errors.bad_request(f"the query parameter {name}={text!r} is no number")
    return int(text)


def list_options(target: Target, query: Mapping[str, str]) -> ListOptions:
    """Read the query of a list or a deletecollection (ApiError 400 for what cannot be read)."""
    return ListOptions(
        namespace=target.namespace,
        selector=parse_selector(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", "")),
        limit=number(query, "limit"),
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        match=query.get("resourceVersionMatch", ""),
    )


def watch_options(target: Target, query: Mapping[str, str]) -> WatchOptions:
    """Read the query of a watch (ApiError 400 or 422 if it cannot be); a named object becomes a field selector."""
    fields = query.get("fieldSelector", "")
    if target.name:
        fields = f"metadata.name={target.name}"
    options = WatchOptions(
        namespace=target.namespace,
        selector=parse_selector(target.resource, query.get("labelSelector", ""), fields),
        resource_version=query.get("resourceVersion", ""),
        match=query.get("resourceVersionMatch", ""),
        bookmarks=is_true(query, "allowWatchBookmarks"),
        send_initial_events=is_true(query, "sendInitialEvents"),
    )
    options.check()
    return options
