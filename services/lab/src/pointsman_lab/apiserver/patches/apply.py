# SPDX-License-Identifier: Apache-2.0
"""Server-side apply: a manager states the fields it wants, and owns exactly those.

Ownership is kept in `metadata.managedFields` in the usual form (`f:name`, `k:{"port":80}`, `v:"x"`). Applying merges
the stated fields, removes those the manager stated before and no longer does, and refuses to change a value that
another manager applied unless forced. Writes that are no applies are not tracked, so conflicts arise between appliers
only; that is less than a real server does.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from pointsman_lab.apiserver.encoding import decode_json, encode_json
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.patches.strategic import merge_key, merges_primitives, strategic_patch

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

_NOT_OWNED: Final = frozenset({"apiVersion", "kind"})
_NOT_OWNED_METADATA: Final = frozenset({"name", "namespace", "managedFields", "uid", "resourceVersion"})

FieldSet = dict[str, Any]


def server_side_apply(
    current: Json, stated: Json, *, manager: str, force: bool, now: str, subresource: str = ""
) -> Json:
    """Give `current` (or an empty dict for a new object) with `stated` applied for `manager`.

    Raises:
        ApiError: 409 when another manager applied a different value and `force` is false.
    """
    owners = list((current.get("metadata") or {}).get("managedFields") or [])
    fields = field_set(stated)
    mine = [entry for entry in owners if _is_mine(entry, manager, subresource)]
    others = [entry for entry in owners if not _is_mine(entry, manager, subresource)]
    conflicts = [found for entry in others for found in _conflicts(entry, fields, current, stated)]
    if conflicts and not force:
        raise _conflict(conflicts)
    before = mine[0].get("fieldsV1") or {} if mine else {}
    kept = [entry.get("fieldsV1") or {} for entry in others]
    merged = _without_stale(current, before, fields, kept)
    plain = copy.deepcopy(stated)
    (plain.get("metadata") or {}).pop("managedFields", None)
    merged = strategic_patch(merged, plain)
    entry = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": stated.get("apiVersion", ""),
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if subresource:
        entry["subresource"] = subresource
    merged.setdefault("metadata", {})["managedFields"] = [*_give_up(others, conflicts), entry]
    return merged


def field_set(stated: Json) -> FieldSet:
    """Give the fields an object states, in the FieldsV1 form."""
    owned = {name: value for name, value in stated.items() if name not in _NOT_OWNED}
    metadata = owned.pop("metadata", None) or {}
    metadata = {name: value for name, value in metadata.items() if name not in _NOT_OWNED_METADATA}
    if metadata:
        owned["metadata"] = metadata
    return _map_fields(owned, "")


def _map_fields(value: Json, around: str) -> FieldSet:
    return {f"f:{name}": _fields(item, around, name) for name, item in value.items()}


def _fields(value: object, around: str, name: str) -> FieldSet:
    if isinstance(value, dict) and value:
        return _map_fields(value, name)
    if isinstance(value, list):
        key = merge_key(around, name)
        if key is not None:
            return {
                _item_name(item, key): {".": {}, **_map_fields(item, name)} for item in value if isinstance(item, dict)
            }
        if merges_primitives(name):
            return {f"v:{encode_json(item).decode()}": {} for item in value}
    return {}


def _item_name(item: Json, key: str) -> str:
    names = {key: item.get(key)}
    if key in ("port", "containerPort"):
        names["protocol"] = item.get("protocol", "TCP")
    return f"k:{encode_json(names).decode()}"


def _is_mine(entry: Json, manager: str, subresource: str) -> bool:
    same = entry.get("manager") == manager and entry.get("operation") == "Apply"
    return same and (entry.get("subresource") or "") == subresource


def _conflicts(entry: Json, fields: FieldSet, current: Json, stated: Json) -> list[tuple[str, tuple[str, ...]]]:
    """Give (manager, path) for each leaf that the entry owns and the stated object would change."""
    if entry.get("operation") != "Apply":
        return []
    manager = str(entry.get("manager", ""))
    shared = _leaves(_intersection(fields, entry.get("fieldsV1") or {}))
    return [(manager, path) for path in shared if _look_up(current, path) != _look_up(stated, path)]


def _intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    """Give the leaves two sets share; a map or list item that both have is shared only as far as its fields are."""
    shared: FieldSet = {}
    for name in left.keys() & right.keys() - {"."}:
        below = _intersection(left[name], right[name])
        if below or (not left[name] and not right[name]):
            shared[name] = below
    return shared


def _leaves(fields: FieldSet, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, below in fields.items():
        if name == ".":
            continue
        deeper = {key: value for key, value in below.items() if key != "."}
        found.extend(_leaves(deeper, (*path, name)) if deeper else [(*path, name)])
    return found


def _look_up(value: Any, path: tuple[str, ...]) -> object:
    for part in path:
        if part.startswith("f:"):
            value = value.get(part[2:]) if isinstance(value, dict) else None
        elif part.startswith("k:"):
            value = next((item for item in value or [] if _is_item(item, part)), None)
    return value


def _is_item(item: object, part: str) -> bool:
    wanted: Json = decode_json(part[2:].encode())
    if not isinstance(item, dict):
        return False
    return all(item.get(name, "TCP" if name == "protocol" else None) == value for name, value in wanted.items())


def _without_stale(current: Json, before: FieldSet, now: FieldSet, kept: list[FieldSet]) -> Json:
    result = copy.deepcopy(current)
    for path in _items(before) + _leaves(before):
        if not _holds(now, path) and not any(_holds(fields, path) for fields in kept):
            _drop(result, path)
    return result


def _items(fields: FieldSet, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [(*path, name) for name in fields if name.startswith("k:")]
    for name, below in fields.items():
        found.extend(_items(below, (*path, name)))
    return found


def _holds(fields: FieldSet, path: tuple[str, ...]) -> bool:
    for part in path:
        if part not in fields:
            return False
        fields = fields[part]
    return True


def _drop(root: Json, path: tuple[str, ...]) -> None:
    parent = _look_up(root, path[:-1])
    last = path[-1]
    if last.startswith("f:") and isinstance(parent, dict):
        parent.pop(last[2:], None)
    elif isinstance(parent, list):
        gone = decode_json(last[2:].encode()) if last.startswith("v:") else None
        parent[:] = [item for item in parent if not (item == gone or (last.startswith("k:") and _is_item(item, last)))]


def _give_up(entries: list[Json], conflicts: list[tuple[str, tuple[str, ...]]]) -> list[Json]:
    kept = copy.deepcopy(entries)
    for manager, path in conflicts:
        for entry in kept:
            if entry.get("manager") == manager:
                _forget(entry.get("fieldsV1") or {}, path)
    return [entry for entry in kept if entry.get("fieldsV1")]


def _forget(fields: FieldSet, path: tuple[str, ...]) -> None:
    for part in path[:-1]:
        fields = fields.get(part) or {}
    fields.pop(path[-1], None)


def _conflict(conflicts: list[tuple[str, tuple[str, ...]]]) -> ApiError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{manager}"',
            "field": "".join(f".{part[2:]}" if part.startswith("f:") else f"[{part[2:]}]" for part in path),
        }
        for manager, path in conflicts
    ]
    named = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    return ApiError(409, "Conflict", f"Apply failed with {count}: {named}", details={"causes": causes})
