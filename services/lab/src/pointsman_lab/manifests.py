# SPDX-License-Identifier: Apache-2.0
"""Ordinary Kubernetes YAML: read files and directories, apply and delete through the API as kubectl does."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pointsman_lab.apiserver.client import ApiClient
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.patches import APPLY_PATCH
from pointsman_lab.apiserver.resources import BY_KIND, NAMESPACES, Resource
from pointsman_lab.errors import LabUsageError

Object = dict[str, Any]
_SUFFIXES = (".yaml", ".yml", ".json")
_NOT_FOUND = 404
_CONFLICT = 409
_FIRST_KINDS = ("Namespace", "ServiceCIDR", "ServiceAccount", "ConfigMap", "Secret")


def load_manifests(paths: Iterable[Path]) -> list[Object]:
    """All objects of the files; of a directory those that end in .yaml, .yml or .json, by name.

    Raises:
        LabUsageError: a path is missing, or holds something that is no Kubernetes object.
    """
    objects: list[Object] = []
    for path in paths:
        if path.is_dir():
            files = sorted(entry for entry in path.iterdir() if entry.suffix in _SUFFIXES)
            if not files:
                raise LabUsageError(f"{path}: no {', '.join(_SUFFIXES)} files in this directory")
        else:
            files = [path]
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except OSError as error:
                raise LabUsageError(f"cannot read {file}: {error.strerror}") from error
            objects += parse_manifests(text, str(file))
    return objects


def parse_manifests(text: str, source: str) -> list[Object]:
    """The objects of one YAML text, Lists opened up.

    Raises:
        LabUsageError: it is no YAML, or a document is no Kubernetes object; the message says where.
    """
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise LabUsageError(f"{source}: not YAML: {error}") from error
    objects: list[Object] = []
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        if not isinstance(document, dict) or not document.get("kind") or not document.get("apiVersion"):
            raise LabUsageError(f"{source}, document {number}: needs apiVersion and kind")
        items = document.get("items") if str(document["kind"]).endswith("List") else None
        for obj in items if isinstance(items, list) else [document]:
            if not isinstance(obj, dict) or not (obj.get("metadata") or {}).get("name"):
                raise LabUsageError(f"{source}, document {number}: {document['kind']} needs metadata.name")
            objects.append(obj)
    return objects


async def apply_objects(api: ApiClient, objects: Sequence[Object]) -> list[Object]:
    """Applies the objects (server-side apply), Namespaces first; a namespace that is used but not there is made.

    Raises:
        LabUsageError: the API does not serve a kind, or refuses an object; the message names it.
    """
    ordered = sorted(objects, key=lambda obj: 0 if obj["kind"] in _FIRST_KINDS else 1)
    rows = [(_row(obj), obj) for obj in ordered]
    for namespace in sorted({_namespace(row, obj) for row, obj in rows if row.namespaced}):
        await _ensure_namespace(api, namespace)
    return [await _apply(api, row, obj) for row, obj in rows]


async def delete_objects(api: ApiClient, objects: Sequence[Object]) -> None:
    """Deletes the objects; those that are gone already are fine."""
    for obj in reversed(objects):
        row = _row(obj)
        try:
            await api.delete(row, obj["metadata"]["name"], _namespace(row, obj))
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise LabUsageError(f"{_words(obj)}: {error.message}") from error


async def _apply(api: ApiClient, row: Resource, obj: Object) -> Object:
    try:
        return await api.patch(
            row,
            obj["metadata"]["name"],
            obj,
            _namespace(row, obj),
            media_type=APPLY_PATCH,
            fieldManager="pointsman-lab",
            force="true",
        )
    except ApiError as error:
        raise LabUsageError(f"{_words(obj)}: {error.message}") from error


async def _ensure_namespace(api: ApiClient, namespace: str) -> None:
    try:
        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    except ApiError as error:
        if error.code != _CONFLICT:
            raise LabUsageError(f"namespace {namespace}: {error.message}") from error


def _row(obj: Object) -> Resource:
    row = BY_KIND.get((str(obj["apiVersion"]), str(obj["kind"])))
    if row is None:
        raise LabUsageError(f"{_words(obj)}: the lab does not serve {obj['apiVersion']} {obj['kind']}; leave it out")
    return row


def _namespace(row: Resource, obj: Object) -> str:
    return str(obj["metadata"].get("namespace") or "default") if row.namespaced else ""


def _words(obj: Object) -> str:
    metadata = obj["metadata"]
    return f"{obj['kind']} {metadata.get('namespace', 'default')}/{metadata['name']}"
