# SPDX-License-Identifier: Apache-2.0
"""JSON patch (RFC 6902): a list of operations at JSON pointers, all or nothing."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.errors import ApiError, bad_request

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json


def json_patch(current: Json, patch: object) -> Json:
    """Give `current` with every operation applied in order; neither argument is changed.

    Raises:
        ApiError: 400 for something that is no list of operations, 422 for a path that does not exist or a failed test.
    """
    if not isinstance(patch, list) or not all(isinstance(operation, dict) for operation in patch):
        raise bad_request("a JSON patch is a list of operations, this one is not")
    document: Any = {"": copy.deepcopy(current)}
    for operation in patch:
        _apply(document, operation)
    result = document[""]
    if not isinstance(result, dict):
        raise bad_request("the JSON patch leaves no object")
    return result


def _apply(document: Any, operation: Json) -> None:
    kind, path = operation.get("op"), str(operation.get("path", ""))
    match kind:
        case "add":
            _add(document, path, _value(operation))
        case "remove":
            _remove(document, path)
        case "replace":
            _remove(document, path)
            _add(document, path, _value(operation))
        case "move":
            _add(document, path, _remove(document, str(operation.get("from", ""))))
        case "copy":
            _add(document, path, copy.deepcopy(_read(document, str(operation.get("from", "")))))
        case "test":
            if _read(document, path) != operation.get("value"):
                raise _failed(f"testing value {path} failed")
        case _:
            raise bad_request(f"the JSON patch has an unexpected operation kind: {kind}")


def _failed(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def _value(operation: Json) -> object:
    if "value" not in operation:
        raise bad_request(f"the JSON patch operation {operation.get('op')} at {operation.get('path')} has no value")
    return copy.deepcopy(operation["value"])


def _parts(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise bad_request(f"the JSON patch path {path!r} does not start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _parent(document: Any, path: str) -> tuple[Any, str]:
    parts = _parts(path)
    node = document
    for part in parts[:-1]:
        node = _step(node, part, path)
    return node, parts[-1]


def _step(node: Any, part: str, path: str) -> Any:
    try:
        return node[part] if isinstance(node, dict) else node[_index(part, len(node) - 1)]
    except (KeyError, IndexError, TypeError, ValueError):
        raise _failed(f"the path {path} does not exist: missing {part!r}") from None


def _index(part: str, last: int) -> int:
    if not part.isdigit() or int(part) > last:
        raise IndexError(part)
    return int(part)


def _read(document: Any, path: str) -> Any:
    node, last = _parent(document, path)
    return _step(node, last, path)


def _add(document: Any, path: str, value: object) -> None:
    node, last = _parent(document, path)
    if isinstance(node, dict):
        node[last] = value
        return
    if not isinstance(node, list):
        raise _failed(f"the path {path} does not exist")
    try:
        node.insert(len(node) if last == "-" else _index(last, len(node)), value)
    except IndexError:
        raise _failed(f"the index {last} of {path} is out of bounds") from None


def _remove(document: Any, path: str) -> Any:
    node, last = _parent(document, path)
    value = _step(node, last, path)
    if isinstance(node, dict):
        del node[last]
    else:
        del node[int(last)]
    return value
