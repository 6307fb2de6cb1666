# SPDX-License-Identifier: Apache-2.0
"""Configuration files: YAML with apiVersion and kind, decoded strictly, every problem reported at once.

A service declares its settings as `Settings` structs (snake_case fields, camelCase in the file) and calls
`load_settings`. Unknown and duplicate fields, wrong types, missing values and whatever a struct's `problems` or its
`__post_init__` finds become one ConfigError that lists each with its path, for example `nodePortAddresses[1]: ...`. A
process thus needs one attempt to learn all that is wrong. A configuration may be a directory of files (`layers.py`).
Nothing here reads the environment.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union

import msgspec
import yaml

from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.layers import files_of, lay_over

__all__ = [
    "API_VERSION",
    "Duration",
    "Settings",
    "decode_settings",
    "dump_document",
    "dump_settings",
    "load_settings",
    "parse_layers",
    "parse_settings",
    "parse_yaml",
    "write_settings",
]

API_VERSION: Final = "config.pointsman.io/v1alpha1"
_SIZE_MAX_BYTES: Final = 1 << 20
_SHOWN_CHARACTERS_MAX: Final = 100
_MERGED_FIELDS_MAX: Final = 10_000
_CONSTRUCTOR_ERRORS: Final = (ValueError, TypeError, LookupError, AttributeError)
"""What PyYAML's constructors let through for values such as `2001-13-45`, `!!int ''` and `!!timestamp x`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all settings structs: camelCase in the file. Subclasses repeat `frozen=True, kw_only=True`."""

    def problems(self) -> Iterable[str]:
        """What is wrong with values that are each of the right type, each beginning with the path of a field.

        Also asked when some fields could not be decoded: these then have their defaults, and what is said about them
        is left out.
        """
        return ()


S = TypeVar("S", bound=Settings)


def load_settings(path: str | Path | None, settings_type: type[S], kind: str) -> S:
    """Read the file, or the files of the directory, and return the settings; with None the defaults.

    Raises:
        ConfigError: a file cannot be read or is wrong; the message lists every problem.
    """
    if path is None:
        return decode_settings({"apiVersion": API_VERSION, "kind": kind}, settings_type, kind, source="defaults")
    return parse_layers({str(file): _read(file) for file in files_of(Path(path))}, settings_type, kind)


def parse_layers(contents: Mapping[str, str | bytes], settings_type: type[S], kind: str) -> S:
    """Decode YAML texts by the names of their files, each laid over those before. Errors as in `load_settings`."""
    fields: dict[str, Any] = {}
    for source, content in contents.items():
        documents = parse_yaml(content, source=source)
        if len(documents) != 1:
            raise ConfigError(f"configuration {source}: expected one YAML document, got {len(documents)}")
        document = _mapping(documents[0], source)
        if len(contents) > 1 and (problems := _head_problems(document, kind, API_VERSION)):
            raise _invalid(source, problems)
        fields = lay_over(fields, document)
    return decode_settings(fields, settings_type, kind, source=" + ".join(contents))


def parse_settings(content: str | bytes, settings_type: type[S], kind: str, *, source: str) -> S:
    """Decode YAML text; `source` names it in error messages. Errors as in `load_settings`."""
    return parse_layers({source: content}, settings_type, kind)


def parse_yaml(content: str | bytes, *, source: str) -> list[Any]:
    """The documents of a YAML (or JSON) text as plain data, empty ones left out.

    Raises:
        ConfigError: the text is not YAML, or gives a field twice.
    """
    try:
        return [document for document in yaml.load_all(content, Loader=_StrictLoader) if document is not None]
    except (yaml.YAMLError, RecursionError, *_CONSTRUCTOR_ERRORS) as error:
        raise ConfigError(f"configuration {source} is not valid YAML: {error}") from error


def decode_settings(
    document: object, settings_type: type[S], kind: str, *, source: str, api_version: str = API_VERSION
) -> S:
    """Decode plain data, as YAML gives it. Errors as in `load_settings`."""
    mapping = _mapping(document, source)
    problems = _head_problems(mapping, kind, api_version)
    fields = {key: value for key, value in mapping.items() if key not in {"apiVersion", "kind"}}
    settings = _convert_struct(fields, settings_type, "", problems)
    if problems or settings is None:
        raise _invalid(source, problems)
    return settings


def settings_as_data(settings: Settings) -> dict[str, Any]:
    """Plain data in the file's form, every field spelled out, as `/configz` serves it."""
    return {field.encode_name: _as_data(getattr(settings, field.name)) for field in msgspec.structs.fields(settings)}


def dump_settings(settings: Settings, kind: str) -> str:
    """The settings as the YAML document that `load_settings` would read back to an equal value."""
    return dump_document(settings_as_data(settings), kind)


def dump_document(fields: Mapping[str, Any], kind: str) -> str:
    """Plain data in the file's form as a YAML document of this kind."""
    return yaml.safe_dump({"apiVersion": API_VERSION, "kind": kind, **fields}, sort_keys=False)


def write_settings(path: str | Path, settings: Settings, kind: str) -> None:
    """Write `dump_settings` to a file, for `--write-config-to`."""
    try:
        Path(path).write_text(dump_settings(settings, kind), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write configuration to {path}: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror or error}") from error
    if len(content) > _SIZE_MAX_BYTES:
        raise ConfigError(f"configuration {path} has {len(content)} bytes; at most {_SIZE_MAX_BYTES} are accepted")
    return content


def _mapping(document: object, source: str) -> Mapping[Any, Any]:
    if not isinstance(document, Mapping):
        raise ConfigError(f"configuration {source}: expected a mapping with apiVersion and kind at the top")
    return document


def _head_problems(document: Mapping[Any, Any], kind: str, api_version: str) -> list[str]:
    return [
        f"{name}: expected {expected}, got {_shown(document.get(name))}"
        for name, expected in (("apiVersion", api_version), ("kind", kind))
        if document.get(name) != expected
    ]


def _invalid(source: str, problems: Iterable[str]) -> ConfigError:
    listed = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"configuration {source} is not valid:{listed}")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would keep the last silently, and merges without bound."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Merges of merges multiply: a kilobyte of them is gigabytes of fields.
        if len(node.value) > _MERGED_FIELDS_MAX:
            problem = f"merge keys (<<) make a mapping of more than {_MERGED_FIELDS_MAX} fields"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the base class's signature
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    problem = f"field {key_node.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _convert_struct(value: object, struct_type: type[S], path: str, problems: list[str]) -> S | None:
    """The struct, or None after at least one problem was added."""
    if not isinstance(value, Mapping):
        problems.append(f"{path}: expected a mapping, got {_kind_of(value)}")
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct_type)}
    unknown = [_unknown_field(path, key, list(fields)) for key in value if key not in fields]
    problems.extend(unknown)
    arguments: dict[str, Any] = {}
    wrong: list[str] = []
    for key, field in fields.items():
        count_before = len(problems)
        if key in value:
            arguments[field.name] = _convert(value[key], field.type, _join(path, key), problems)
        elif field.required:
            problems.append(f"{_join(path, key)}: a value is required")
        if len(problems) > count_before:
            arguments.pop(field.name, None)
            wrong.append(key)
    return _make(struct_type, arguments, path, problems, wrong=wrong, is_complete=not (wrong or unknown))


def _make(
    struct_type: type[S],
    arguments: Mapping[str, Any],
    path: str,
    problems: list[str],
    *,
    wrong: list[str],
    is_complete: bool,
) -> S | None:
    """The struct; its own problems are added, those that name a field in `wrong` left out."""
    try:
        made = struct_type(**arguments)
    except (ValueError, TypeError) as error:
        if is_complete:
            problems.append(f"{path}: {error}" if path else str(error))
        return None
    found = [problem for problem in made.problems() if not any(key in problem for key in wrong)]
    problems.extend(_join(path, problem) for problem in found)
    return made if is_complete and not found else None


def _convert(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    """`value` as `annotation`, descending wherever more than one problem can be found."""
    plain = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if origin in {Union, types.UnionType} and type(None) in arguments and len(arguments) == 2:
        inner = arguments[0] if arguments[1] is type(None) else arguments[1]
        return None if value is None else _convert(value, inner, path, problems)
    if isinstance(plain, type) and issubclass(plain, Settings):
        return _convert_struct(value, plain, path, problems)
    if isinstance(value, list) and (origin is list or (origin is tuple and arguments[1:] == (...,))):
        count_before = len(problems)
        items = [_convert(item, arguments[0], f"{path}[{index}]", problems) for index, item in enumerate(value)]
        if annotation is not plain and len(problems) == count_before:
            return _convert_leaf(
                value, annotation, path, problems
            )  # constraints on the list itself, such as its length
        return origin(items)
    if isinstance(value, Mapping) and origin is dict and arguments[0] is str:
        return {str(key): _convert(item, arguments[1], _join(path, str(key)), problems) for key, item in value.items()}
    return _convert_leaf(value, annotation, path, problems)


def _convert_leaf(value: Any, annotation: Any, path: str, problems: list[str]) -> Any:
    try:
        return msgspec.convert(value, annotation, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        message, _, inside = str(error).partition(" - at `$")
        problems.append(f"{path}{inside.rstrip('`')}: {message}")
        return None


def _decode_custom(kind: type, value: object) -> object:
    if kind is Duration:
        if not isinstance(value, str):
            raise ValueError(
                f"expected a duration such as 250ms, 5s or 1m, got {_kind_of(value)}; quote it with a unit"
            )
        return Duration.parse(value)
    raise NotImplementedError(f"settings fields of type {kind} are not supported")


def _unknown_field(path: str, key: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{_join(path, str(key))}: unknown field{hint}"


def _as_data(value: Any) -> Any:
    if isinstance(value, Settings):
        return settings_as_data(value)
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, list | tuple):
        return [_as_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _as_data(item) for key, item in value.items()}
    return msgspec.to_builtins(value)


def _kind_of(value: object) -> str:
    names: dict[type, str] = {dict: "a mapping", list: "a list", str: "a string", type(None): "nothing"}
    # Python refuses to write integers of thousands of digits, which hexadecimal ones in a file can have.
    is_short = isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)
    return names.get(type(value), repr(value) if is_short else f"a value of type {type(value).__name__}")


def _shown(value: object) -> str:
    """Text and absence as they are; never what is inside of lists, which aliases can make larger than memory."""
    return repr(value)[:_SHOWN_CHARACTERS_MAX] if isinstance(value, str | None) else _kind_of(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
