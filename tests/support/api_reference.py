# SPDX-License-Identifier: Apache-2.0
"""The page of the public API, made of the .proto files and their comments.

`PYTHONPATH=tests python -m support.api_reference` writes the page.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

_ROOT: Final = Path(__file__).parents[2]
PAGE: Final = _ROOT / "docs" / "reference" / "api.md"
PACKAGES: Final = ("pointsman.control.v1", "pointsman.plan.v1", "pointsman.cluster.v1", "pointsman.types.v1")
_OURS: Final = "pointsman."
_INTRODUCTION: Final = """\
# API

Every service, method, message and enum, as the .proto files describe them. Written by `make docs`; do not edit.

Controllers and people talk to planners in `control.v1` ([guide](../control-api.md), [overrides](../overrides.md)),
enforcers in `plan.v1`; planners follow watchers in `cluster.v1`. Who may call what is in
[security](../security.md), what stays compatible in [proto/README.md](../../proto/README.md). The names below leave
out `pointsman.`, with which the full ones begin.
"""

_SERVICE: Final = FileDescriptorProto.SERVICE_FIELD_NUMBER
_MESSAGE: Final = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_ENUM: Final = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
_SYNTAX: Final = FileDescriptorProto.SYNTAX_FIELD_NUMBER
_PACKAGE: Final = FileDescriptorProto.PACKAGE_FIELD_NUMBER
_Place = tuple[int, ...]
"""Where something stands in its file, as `SourceCodeInfo.Location.path` says it."""


def descriptors() -> FileDescriptorSet:
    """What protoc makes of the .proto files, with their comments."""
    files = sorted(str(path.relative_to(_ROOT / "proto")) for path in (_ROOT / "proto/pointsman").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set.binpb"
        options = ("-I", "proto", "--include_source_info", f"--descriptor_set_out={out}")
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *files], cwd=_ROOT, check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file, with what its comments say of each place."""

    proto: FileDescriptorProto
    comments: Mapping[_Place, str]

    @classmethod
    def of(cls, proto: FileDescriptorProto) -> _File:
        locations = proto.source_code_info.location
        return cls(proto=proto, comments={tuple(each.path): _comment(each.leading_comments) for each in locations})

    def prose(self, place: _Place) -> str:
        """A comment with the lines and lists that it was written with."""
        return self.comments.get(place, "").replace("<", "&lt;")

    def cell(self, place: _Place) -> str:
        """A comment on one line of a table."""
        return " ".join(self.prose(place).split()).replace("|", "\\|")


def _comment(text: str) -> str:
    """Without the space that follows `//` in each line, and without the licence, which is the file's."""
    lines = (line.removeprefix(" ").rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if not line.startswith("SPDX-License-Identifier:")).strip("\n")


def _short(name: str) -> str:
    """Of a full name, with or without a leading dot."""
    return name.removeprefix(".").removeprefix(_OURS)


def _link(name: str) -> str:
    """A type's name, which leads to its heading when it is one of ours."""
    short = _short(name)
    is_ours = name.startswith(f".{_OURS}")
    return f"[`{short}`](#{short.replace('.', '').lower()})" if is_ours else f"`{short}`"


def _service(file: _File, service: ServiceDescriptorProto, place: _Place) -> Iterator[str]:
    yield from (f"### {_short(file.proto.package)}.{service.name}", "", file.prose(place), "")
    yield from ("| method | request | response | meaning |", "|---|---|---|---|")
    for index, method in enumerate(service.method):
        request = ("stream of " if method.client_streaming else "") + _link(method.input_type)
        response = ("stream of " if method.server_streaming else "") + _link(method.output_type)
        meaning = file.cell((*place, ServiceDescriptorProto.METHOD_FIELD_NUMBER, index))
        yield f"| `{method.name}` | {request} | {response} | {meaning} |"
    yield ""


def _message(file: _File, message: DescriptorProto, place: _Place, above: str) -> Iterator[str]:
    name = f"{above}.{message.name}"
    yield from (f"### {name}", "", file.prose(place), "")
    if message.field:
        yield from ("| field | number | type | meaning |", "|---|---|---|---|")
    for index, field in enumerate(message.field):
        meaning = file.cell((*place, DescriptorProto.FIELD_FIELD_NUMBER, index))
        yield f"| `{field.name}` | {field.number} | {_type(message, field, name)} | {meaning} |"
    if message.field:
        yield ""
    for index, oneof in enumerate(message.oneof_decl):
        members = [f"`{field.name}`" for field in message.field if _is_member(field, index)]
        if members:
            meaning = file.cell((*place, DescriptorProto.ONEOF_DECL_FIELD_NUMBER, index))
            yield from (f"`{oneof.name}` is one of {', '.join(members)}. {meaning}", "")
    for index, enum in enumerate(message.enum_type):
        yield from _enum(file, enum, (*place, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, index), name)
    for index, inner in enumerate(message.nested_type):
        if not inner.options.map_entry:
            yield from _message(file, inner, (*place, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, index), name)


def _enum(file: _File, enum: EnumDescriptorProto, place: _Place, above: str) -> Iterator[str]:
    yield from (f"### {above}.{enum.name}", "", file.prose(place), "")
    yield from ("| value | number | meaning |", "|---|---|---|")
    for index, value in enumerate(enum.value):
        meaning = file.cell((*place, EnumDescriptorProto.VALUE_FIELD_NUMBER, index))
        yield f"| `{value.name}` | {value.number} | {meaning} |"
    yield ""


def _is_member(field: FieldDescriptorProto, oneof: int) -> bool:
    """Of a oneof that was written as one; an `optional` field is alone in one of its own."""
    return field.HasField("oneof_index") and field.oneof_index == oneof and not field.proto3_optional


def _type(message: DescriptorProto, field: FieldDescriptorProto, name: str) -> str:
    """A field's type as the .proto has it."""
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name == f".{_OURS}{name}.{entry.name}":
            key, value = entry.field
            return f"map of {_plain_type(key)} to {_plain_type(value)}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {_plain_type(field)}"
    return f"optional {_plain_type(field)}" if field.proto3_optional else _plain_type(field)


def _plain_type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _link(field.type_name)
    return f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"


def _package(files: Iterable[_File]) -> Iterator[str]:
    """Services first, then the rest, each in the order of the files."""
    held = tuple(files)
    above = _short(held[0].proto.package)
    yield from (f"## {above}", "")
    for file in held:
        for place in ((_SYNTAX,), (_PACKAGE,)):
            if words := file.prose(place):
                yield from (words, "")
    for file in held:
        for index, service in enumerate(file.proto.service):
            yield from _service(file, service, (_SERVICE, index))
    for file in held:
        for index, message in enumerate(file.proto.message_type):
            yield from _message(file, message, (_MESSAGE, index), above)
        for index, enum in enumerate(file.proto.enum_type):
            yield from _enum(file, enum, (_ENUM, index), above)


def page() -> str:
    """The reference, as Markdown."""
    files = [_File.of(proto) for proto in descriptors().file]
    lines = [_INTRODUCTION]
    for package in PACKAGES:
        lines += _package(file for file in files if file.proto.package == package)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
