# SPDX-License-Identifier: Apache-2.0
"""Messages of the contract as plain data that people can read, and back.

The rules, for every message alike: field names in lowerCamelCase; addresses and blocks as text; names as
`namespace/name`; enum values without their prefix, in Kubernetes' way of writing (`ClusterIP`, `NotReady`, `TCP`);
digests as 16 hexadecimal digits; durations as seconds with `s`; times as RFC 3339; endpoint sets as lists of endpoints.
Fields without a value are shown, unless the contract tells their absence from zero. This is the form of `-o json`,
`-o yaml` and of the files that `override apply` reads, and changes only as the contract does.
"""

import difflib
import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.plan.v1.plan_service_pb2 import EndpointSet
from pointsman.types.v1.types_pb2 import IPPrefix, NamespacedName

_IRREGULAR: Final = MappingProxyType(
    {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP", "IPV4": "IPv4", "IPV6": "IPv6", "IP": "IP", "CIDR": "CIDR"}
)
_LOWER_CASE: Final = frozenset({"pointsman.plan.v1.ProxyMode"})


def plain(message: Message) -> Any:
    """A message as dicts, lists, text, numbers and booleans."""
    match message:
        case NamespacedName():
            return f"{message.namespace}/{message.name}" if message.namespace else message.name
        case IPPrefix():
            return f"{address_text(message.address)}/{message.length}"
        case Duration():
            return seconds_text(message)
        case Timestamp():
            return message.ToJsonString()
        case EndpointSet():
            return _endpoints(message)
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[_key(field)] = dict(sorted(value.items()))
        elif field.is_repeated:
            found[_key(field)] = [_value(field, item) for item in value]
        else:
            found[_key(field)] = _value(field, value)
    return found


def enum_word(descriptor: EnumDescriptor, number: int) -> str:
    """`NotReady` for CAUSE_NOT_READY; empty for the value 0, and the number for one that is not known."""
    if number not in descriptor.values_by_number:
        return f"unknown ({number})"
    name = descriptor.values_by_number[number].name
    word = name.removeprefix(descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED"))
    if number == 0:
        return ""
    if descriptor.full_name in _LOWER_CASE:
        return word.lower()
    return "".join(_IRREGULAR.get(part, part.capitalize()) for part in word.split("_"))


def address_text(packed: bytes) -> str:
    """An address; empty for none. What is no address is shown as it is, in hexadecimal: a client refuses to die."""
    if not packed:
        return ""
    return str(ipaddress.ip_address(packed)) if len(packed) in (4, 16) else f"0x{packed.hex()}"


def endpoint_text(address: str, port: int) -> str:
    """`10.1.0.1:8080`, `[fd00::1]:8080`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def seconds_text(duration: Duration) -> str:
    """`90s`, `0.25s`."""
    return f"{duration.ToNanoseconds() / 1e9:.9f}".rstrip("0").rstrip(".") + "s"


def fill(message: Message, data: Any, path: str = "") -> list[str]:
    """Set a message's fields from such plain data; what is wrong, each with the path of its field."""
    if not isinstance(data, Mapping):
        return [f"{path or 'document'}: expected a mapping, got {type(data).__name__}"]
    fields = {_key(field): field for field in message.DESCRIPTOR.fields}
    problems = []
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            close = difflib.get_close_matches(str(key), list(fields), n=1)
            problems.append(f"{where}: unknown field" + (f"; did you mean {close[0]}?" if close else ""))
            continue
        try:
            problems += _fill_field(message, fields[str(key)], value, where)
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(f"{where}: {error}")
    return problems


def _fill_field(message: Message, field: Any, value: Any, where: str) -> list[str]:
    if field.is_repeated:
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {type(value).__name__}"]
        target, problems = getattr(message, field.name), []
        for index, item in enumerate(value):
            if field.message_type is None:
                target.append(_scalar(field, item))
            else:
                problems += _fill_message(target.add(), item, f"{where}[{index}]")
        return problems
    if field.message_type is None:
        setattr(message, field.name, _scalar(field, value))
        return []
    made = getattr(message, field.name)
    made.SetInParent()
    return _fill_message(made, value, where)


def _fill_message(message: Message, value: Any, where: str) -> list[str]:
    if isinstance(message, NamespacedName):
        namespace, _, name = str(value).rpartition("/")
        message.namespace, message.name = namespace, name
        return []
    if isinstance(message, Duration):
        message.FromJsonString(value if isinstance(value, str) else f"{value}s")
        return []
    if isinstance(message, Timestamp):
        message.FromJsonString(str(value))
        return []
    return fill(message, value, where)


def _scalar(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return ipaddress.ip_address(value).packed
    if field.enum_type is not None:
        words = {enum_word(field.enum_type, number): number for number in field.enum_type.values_by_number if number}
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}, got {value!r}")
        return words[value]
    wanted = str if field.type == FieldDescriptor.TYPE_STRING else int
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int):
        raise TypeError(f"expected {'text' if wanted is str else 'a whole number'}, got {value!r}")
    return value


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return address_text(value)
    if field.type == FieldDescriptor.TYPE_FIXED64:
        return f"{value:016x}"
    return value


def _key(field: Any) -> str:
    return str(field.json_name)


def _endpoints(found: EndpointSet) -> list[dict[str, Any]]:
    size = len(found.addresses) // len(found.ports) if found.ports else 0
    hairpin = frozenset(found.hairpin)
    return [
        {
            "address": address_text(found.addresses[index * size : (index + 1) * size]),
            "port": port,
            "weight": found.weights[index] if index < len(found.weights) else 1,
            "hairpin": index in hairpin,
        }
        for index, port in enumerate(found.ports)
    ]
