# SPDX-License-Identifier: Apache-2.0
"""Strategic merge patch: like a merge patch, but lists of named things merge item by item.

Which field identifies an item is not in the JSON; Kubernetes has it in its Go types and this module in a table, keyed
by the list's name and, where a name means different things, by the field around it. Lists that are not in the
table are replaced. Directives: `$patch: delete|replace`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`,
`$retainKeys`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

_MERGE_KEYS: Final = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "podIPs": "ip",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_MERGE_KEYS_WITHIN: Final = {
    ("spec", "ports"): "port",
    ("containers", "ports"): "containerPort",
    ("initContainers", "ports"): "containerPort",
    ("status", "addresses"): "type",
    ("", "secrets"): "name",
}
_MERGED_PRIMITIVES: Final = frozenset({"finalizers", "podCIDRs"})
_ORDER: Final = "$setElementOrder/"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"


def strategic_patch(current: Json, patch: Json) -> Json:
    """Give `current` with `patch` merged in; neither is changed."""
    return _merge_map(current, patch, "")


def merge_key(parent: str, name: str) -> str | None:
    """Give the field that identifies the items of list `name` inside field `parent`; None for an atomic list."""
    return _MERGE_KEYS_WITHIN.get((parent, name)) or _MERGE_KEYS.get(name)


def merges_primitives(name: str) -> bool:
    """Tell whether a list of plain values is merged as a set."""
    return name in _MERGED_PRIMITIVES


def _merge_map(current: Json, patch: Json, around: str) -> Json:
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {name: _plain(value) for name, value in patch.items() if not name.startswith("$")}
    merged = dict(current)
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        merged = {name: value for name, value in merged.items() if name in retained}
    for name, value in patch.items():
        if name.startswith(_DELETE_PRIMITIVES):
            _delete_primitives(merged, name.removeprefix(_DELETE_PRIMITIVES), value)
        elif not name.startswith("$"):
            _merge_field(merged, name, value, patch, around)
    for name, order in patch.items():
        if name.startswith(_ORDER) and isinstance(order, list):
            field = name.removeprefix(_ORDER)
            _reorder(merged, field, order, merge_key(around, field))
    return merged


def _merge_field(merged: Json, name: str, value: object, patch: Json, around: str) -> None:
    present = merged.get(name)
    if value is None:
        merged.pop(name, None)
    elif isinstance(value, dict):
        merged[name] = _merge_map(present if isinstance(present, dict) else {}, value, name)
    elif isinstance(value, list):
        order = patch.get(f"{_ORDER}{name}")
        merged[name] = _merge_list(present if isinstance(present, list) else [], value, around, name, order)
    else:
        merged[name] = value


def _merge_list(present: list[Any], patch: list[Any], around: str, name: str, order: object) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [_plain(item) for item in patch if not (isinstance(item, dict) and item.get("$patch") == "replace")]
    key = merge_key(around, name)
    if key is None:
        if merges_primitives(name):
            return present + [item for item in patch if item not in present]
        return [_plain(item) for item in patch]
    merged = list(present)
    for item in patch:
        if isinstance(item, dict):
            _merge_item(merged, item, key, name, order if isinstance(order, list) else patch)
    return merged


def _merge_item(merged: list[Any], item: Json, key: str, name: str, order: list[Any]) -> None:
    position = _find(merged, item, key, order)
    if item.get("$patch") == "delete":
        if position is not None:
            del merged[position]
    elif position is None:
        merged.append(_merge_map({}, item, name))
    else:
        merged[position] = _merge_map(merged[position], item, name)


def _find(items: list[Any], wanted: Json, key: str, order: list[Any]) -> int | None:
    """Give the place of the item `wanted` means.

    Ports of one number and two protocols (DNS) share the merge key, so the protocol decides between them; a port that
    the order (or, without one, the patch itself) has more often than the list is a new one.
    """
    same = [i for i, item in enumerate(items) if isinstance(item, dict) and item.get(key) == wanted.get(key)]
    protocol = wanted.get("protocol")
    if not same or protocol is None:
        return same[0] if same else None
    exact = [i for i in same if items[i].get("protocol", "TCP") == protocol]
    if exact:
        return exact[0]
    listed = [entry for entry in order if _key_of(entry, key) == wanted.get(key)]
    return None if len(listed) > len(same) else same[0]


def _key_of(entry: object, key: str) -> object:
    return entry.get(key) if isinstance(entry, dict) else entry


def _reorder(merged: Json, name: str, order: list[Any], key: str | None) -> None:
    items = merged.get(name)
    if not isinstance(items, list):
        return
    ranks: dict[object, int] = {}
    for rank, entry in enumerate(order):
        ranks.setdefault(str(_key_of(entry, key) if key else entry), rank)

    def rank_of(item: object) -> int:
        return ranks.get(str(_key_of(item, key) if key else item), len(order))

    merged[name] = sorted(items, key=rank_of)


def _delete_primitives(merged: Json, name: str, values: object) -> None:
    present = merged.get(name)
    if isinstance(present, list) and isinstance(values, list):
        merged[name] = [item for item in present if item not in values]


def _plain(value: Any) -> Any:
    """Give a patch value without its directives and nulls: what it means where there was nothing before."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
