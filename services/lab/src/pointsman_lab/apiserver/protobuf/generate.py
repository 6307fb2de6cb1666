# SPDX-License-Identifier: Apache-2.0
"""Writes schema.json from Kubernetes' own Go types: run it as a module with API APIMACHINERY.

The arguments are checkouts of github.com/kubernetes/api and github.com/kubernetes/apimachinery. The Go struct tags say
everything a decoder to JSON needs: field numbers, JSON names, which fields are inlined, and which are pointers (those
keep their zero values). Only what is reachable from the kinds this server reads is written.

schema.json maps a message name to its fields: number -> [JSON name, type, flags]. A type is string, bool, int, bytes,
time, quantity, intorstring, raw or a message name; flags are r (repeated), m (map from string), p (pointer) and
i (inline).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

SCHEMA_FILE: Final = Path(__file__).with_name("schema.json")
_GROUPS: Final = (
    "apps",
    "authentication",
    "authorization",
    "autoscaling",
    "coordination",
    "core",
    "discovery",
    "events",
    "networking",
    "policy",
)
_ROOTS: Final = {
    "core": "Binding ConfigMap Endpoints Event Namespace Node Pod ReplicationController Secret Service ServiceAccount",
    "apps": "DaemonSet Deployment ReplicaSet StatefulSet",
    "authentication": "SelfSubjectReview TokenReview",
    "authorization": "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    "autoscaling": "Scale",
    "coordination": "Lease",
    "discovery": "EndpointSlice",
    "events": "Event",
    "networking": "IPAddress ServiceCIDR",
    "policy": "Eviction",
    "meta": "DeleteOptions",
}
_STRUCT: Final = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD: Final = re.compile(r'^\s+(?:\w+ )?\s*([\w.*\[\]]+)\s+`json:"([^"]*)"[^`]*? protobuf:"([^"]*)"', re.MULTILINE)
_MAP: Final = re.compile(r"^map\[[\w.]+\](.+)$")
_SPECIAL: Final = {
    "bool": "bool",
    "int32": "int",
    "int64": "int",
    "[]byte": "bytes",
    "Time": "time",
    "MicroTime": "time",
    "Quantity": "quantity",
    "IntOrString": "intorstring",
    "FieldsV1": "raw",
    "RawExtension": "raw",
}
_ALIASES: Final = {"ResourceList": "map[ResourceName]resource.Quantity"}
_IMPORTS: Final = {"metav1": "meta", "v1": "core", "corev1": "core", "resource": "", "intstr": "", "runtime": ""}

Fields = dict[str, list[str]]


def main(arguments: list[str]) -> int:
    """Write the schema; gives the exit status."""
    if len(arguments) != len(("API", "APIMACHINERY")):
        print(__doc__, file=sys.stderr)
        return 2
    api, machinery = map(Path, arguments)
    sources = {group: _read(api / group / "v1") for group in _GROUPS}
    sources["meta"] = _read(machinery / "pkg/apis/meta/v1")
    structs = {f"{group}.{name}": body for group, source in sources.items() for name, body in _STRUCT.findall(source)}
    messages = {name: _fields(name.partition(".")[0], body, structs) for name, body in structs.items()}
    wanted = _reachable(messages)
    text = json.dumps({name: messages[name] for name in sorted(wanted)}, separators=(",", ":"))
    SCHEMA_FILE.write_text(text.replace('},"', '},\n"') + "\n")
    return 0


def _read(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*types*.go")))


def _fields(group: str, body: str, structs: dict[str, str]) -> Fields:
    fields: Fields = {}
    for go_type, json_tag, protobuf_tag in _FIELD.findall(body):
        wire, number, *_ = protobuf_tag.split(",")
        name = json_tag.partition(",")[0]
        kind, flags = _type_of(group, go_type, wire, structs)
        if not name:
            flags += "i"
        fields[number] = [name, kind, flags]
    return fields


def _type_of(group: str, go_type: str, wire: str, structs: dict[str, str]) -> tuple[str, str]:
    """Give the schema type and flags; plain Go types count more than the tag, which is wrong for some of them."""
    go_type = _ALIASES.get(go_type, go_type)
    flags = "p" if go_type.startswith("*") else ""
    go_type = go_type.lstrip("*")
    mapped = _MAP.match(go_type)
    if mapped:
        return _type_of(group, mapped[1], "bytes", structs)[0], "m"
    if go_type.startswith("[]") and go_type != "[]byte":
        return _type_of(group, go_type[2:], wire, structs)[0], "r"
    package, _, name = go_type.rpartition(".")
    message = f"{_IMPORTS.get(package, package) if package else group}.{name}"
    if message in structs and name not in _SPECIAL:
        return message, flags
    return _SPECIAL.get(name, "int" if wire == "varint" else "string"), flags


def _reachable(messages: dict[str, Fields]) -> set[str]:
    waiting = [f"{group}.{name}" for group, names in _ROOTS.items() for name in names.split()]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(kind for _, kind, _ in messages[name].values() if kind in messages)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
