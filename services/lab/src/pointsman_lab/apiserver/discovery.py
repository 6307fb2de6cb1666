# SPDX-License-Identifier: Apache-2.0
"""Discovery: how a client learns what is served, in the unaggregated form that every client falls back to."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.resources import ALL_VERBS, RESOURCES, STATUS_VERBS, Resource
from pointsman_lab.apiserver.scale import SCALE_API_VERSION

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

VERSION: Final = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2",
    "gitCommit": "pointsman-lab",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
_CREATE_ONLY: Final = {"binding": "Binding", "eviction": "Eviction"}


def api_versions(server_address: str) -> Json:
    """Give the answer to /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    }


def api_groups() -> Json:
    """Give the answer to /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups()]}


def api_group(group: str) -> Json | None:
    """Give the answer to /apis/GROUP, None for a group that is not served."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)} if group in groups() else None


def groups() -> list[str]:
    """Give the names of the served groups but the core group, in table order."""
    return list(dict.fromkeys(resource.group for resource in RESOURCES if resource.group))


def _group(group: str) -> Json:
    versions = list(dict.fromkeys(resource.version for resource in RESOURCES if resource.group == group))
    entries = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": entries, "preferredVersion": entries[0]}


def api_resources(group: str, version: str) -> Json | None:
    """Give the answer to /api/v1 or /apis/GROUP/VERSION, None when that is not served."""
    served = [resource for resource in RESOURCES if (resource.group, resource.version) == (group, version)]
    if not served:
        return None
    entries = sorted(
        (entry for resource in served for entry in _entries(resource)), key=lambda entry: str(entry["name"])
    )
    document: Json = {"kind": "APIResourceList"}
    if group:
        document["apiVersion"] = "v1"
    return {**document, "groupVersion": served[0].api_version, "resources": entries}


def _entries(resource: Resource) -> list[Json]:
    entry: Json = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": [verb for verb in ALL_VERBS if verb in resource.verbs],
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.stored:
        digest = hashlib.sha256(f"{resource.group}/{resource.version}/{resource.kind}".encode()).digest()
        entry["storageVersionHash"] = base64.b64encode(digest[:8]).decode()
    return [entry, *(_subresource(resource, name) for name in resource.subresources)]


def _subresource(resource: Resource, name: str) -> Json:
    entry: Json = {"name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced}
    verbs = list(STATUS_VERBS)
    kind = resource.kind
    if name == "scale":
        group, _, version = SCALE_API_VERSION.partition("/")
        entry |= {"group": group, "version": version}
        kind = "Scale"
    elif name in _CREATE_ONLY:
        verbs, kind = ["create"], _CREATE_ONLY[name]
        if name == "eviction":
            entry |= {"group": "policy", "version": "v1"}
    elif name == "log":
        verbs = ["get"]
    elif name == "finalize":
        verbs = ["update"]
    return {**entry, "kind": kind, "verbs": verbs}
