# SPDX-License-Identifier: Apache-2.0
"""Server-side tables: what `kubectl get` prints (meta.k8s.io/v1 Table), lists and watch events alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.columns import columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman_lab.apiserver.columns import Column
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.resources import Resource

TABLE_KIND: Final = "Table"
TABLE_VERSION: Final = "meta.k8s.io/v1"
PARTIAL_KIND: Final = "PartialObjectMetadata"


def table(
    resource: Resource, bodies: Iterable[Json], metadata: Json, *, now: float, include: str = "", header: bool = True
) -> Json:
    """Give a Table of objects.

    Args:
        resource: whose columns to use.
        bodies: the objects, complete.
        metadata: the list metadata of the table.
        now: seconds since the epoch, for ages.
        include: what each row carries of its object: None, Metadata (the default) or Object.
        header: False leaves the column definitions out, as later events of a watch do.
    """
    columns = columns_of(resource)
    definitions = [_definition(column) for column in columns] if header else []
    return {
        "kind": TABLE_KIND,
        "apiVersion": TABLE_VERSION,
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": [_row(columns, body, now, include) for body in bodies],
    }


def partial_metadata(body: Json) -> Json:
    """Give just the metadata of an object, as metadata-only clients ask for it."""
    return {"kind": PARTIAL_KIND, "apiVersion": TABLE_VERSION, "metadata": body.get("metadata") or {}}


def _definition(column: Column) -> Json:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def _row(columns: tuple[Column, ...], body: Json, now: float, include: str) -> Json:
    row: Json = {"cells": [column.cell(body, now) for column in columns]}
    if include == "Object":
        row["object"] = body
    elif include != "None":
        row["object"] = partial_metadata(body)
    return row
