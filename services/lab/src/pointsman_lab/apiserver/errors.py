# SPDX-License-Identifier: Apache-2.0
"""The API server's refusals: one exception that carries a `Status` object, and a constructor per reason.

The words and the details are those of a real API server, because clients match on them: a reflector relists on the
reason `Expired`, kubectl retries on `Conflict`, and people read the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.apiserver.resources import Resource

CONTINUE_TOO_OLD: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


class ApiError(Exception):
    """A refusal with an HTTP code; `status` is the body (kind `Status`) a client gets."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        continue_token: str = "",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self._details = details
        self._continue_token = continue_token

    @property
    def status(self) -> dict[str, Any]:
        """The `Status` object, fields in the order a real server writes them."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self._continue_token} if self._continue_token else {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self._details is not None:
            body["details"] = self._details
        body["code"] = self.code
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One finding of a validation: the field path, the machine reason and the words for people."""

    field: str
    reason: str
    message: str


def invalid_value(field: str, value: object, why: str) -> Cause:
    """Give a FieldValueInvalid cause; strings are quoted and lists printed as JSON, as Kubernetes does."""
    return Cause(field=field, reason="FieldValueInvalid", message=f"Invalid value: {_shown(value)}: {why}")


def required(field: str, why: str = "") -> Cause:
    """Give a FieldValueRequired cause."""
    return Cause(
        field=field, reason="FieldValueRequired", message=f"Required value: {why}" if why else "Required value"
    )


def duplicate(field: str, value: object) -> Cause:
    """Give a FieldValueDuplicate cause."""
    return Cause(field=field, reason="FieldValueDuplicate", message=f"Duplicate value: {_shown(value)}")


def forbidden_field(field: str, why: str) -> Cause:
    """Give a FieldValueForbidden cause."""
    return Cause(field=field, reason="FieldValueForbidden", message=f"Forbidden: {why}")


def not_supported(field: str, value: object, supported: Sequence[str]) -> Cause:
    """Give a FieldValueNotSupported cause that names the values that would do."""
    names = ", ".join(f'"{name}"' for name in sorted(supported))
    message = f"Unsupported value: {_shown(value)}: supported values: {names}"
    return Cause(field=field, reason="FieldValueNotSupported", message=message)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_shown(item) for item in value) + "]"
    return str(value)


def _about(resource: Resource, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details


def not_found(resource: Resource, name: str) -> ApiError:
    """404: the object does not exist."""
    message = f'{resource.qualified_name} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_about(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: create of a name that is taken."""
    message = f'{resource.qualified_name} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_about(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """409: a write that rests on an older version of the object than the stored one."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.qualified_name} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_about(resource, name))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object breaks rules; every finding is reported at once."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    found = [f"{cause.field}: {cause.message}" for cause in causes]
    words = found[0] if len(found) == 1 else "[" + ", ".join(found) + "]"
    details: dict[str, Any] = {"name": name}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.kind
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {words}', details=details)


def bad_request(message: str) -> ApiError:
    """400: the request itself cannot be understood."""
    return ApiError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str, cause: dict[str, Any] | None = None) -> ApiError:
    """403: the object may not be written as things stand."""
    details = _about(resource, name)
    if cause:
        details["causes"] = [cause]
    return ApiError(403, "Forbidden", f'{resource.qualified_name} "{name}" is forbidden: {why}', details=details)


def unauthorized() -> ApiError:
    """401: no credentials, or none that we know."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    """405: the resource has no such verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def resource_not_found() -> ApiError:
    """404 for a resource that this API group does not serve."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def not_acceptable(supported: str) -> ApiError:
    """406: the client accepts nothing that we can write."""
    message = f"only the following media types are accepted: {supported}"
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(given: str, supported: Sequence[str]) -> ApiError:
    """415: a body in an encoding that we do not read."""
    message = (
        f"the body of the request was in an unknown format ({given}) - "
        f"accepted media types include: {', '.join(supported)}"
    )
    return ApiError(415, "UnsupportedMediaType", message)


def watch_expired(asked: int, oldest: int) -> ApiError:
    """410 inside a watch: events after `asked` are compacted, the oldest we can start from is `oldest`."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def list_expired() -> ApiError:
    """410 for a list at an exact resource version that is compacted."""
    return ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")


def continue_expired(fresh_token: str) -> ApiError:
    """410 for a continue token whose snapshot is compacted; `fresh_token` goes on inconsistently."""
    return ApiError(410, "Expired", CONTINUE_TOO_OLD, continue_token=fresh_token)


def too_large_resource_version(asked: int, current: int) -> ApiError:
    """504 for a list that must not be older than a version that does not exist yet."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={"causes": [cause], "retryAfterSeconds": 1},
        retry_after_seconds=1,
    )


def injected(code: int, retry_after_seconds: int) -> ApiError:
    """Give the answer of a fault on request: 429, 503 or 500 with Retry-After."""
    words = {
        429: ("TooManyRequests", "Too many requests, please try again later."),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    }
    reason, message = words.get(code, ("InternalError", "Internal error occurred: a fault was asked for"))
    details = {"retryAfterSeconds": retry_after_seconds}
    return ApiError(code, reason, message, details=details, retry_after_seconds=retry_after_seconds)
