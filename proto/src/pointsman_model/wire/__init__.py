# SPDX-License-Identifier: Apache-2.0
"""Between protobuf messages and the pure vocabulary: the only importer of the stubs besides the gRPC adapters.

`to_pb` never fails for a value the vocabulary allows. `from_pb` trusts nothing: what arrives comes over the network,
so a value that the contract forbids raises WireError, which says the field and what was wrong with it.
"""

from typing import cast

from pointsman.types.v1 import types_pb2
from pointsman_model.names import Family, Prefix, Protocol, make_prefix

PORT_MAX = 65535


class WireError(ValueError):
    """A message carries a value that the contract forbids; the text names the field."""


def protocol_to_pb(protocol: Protocol) -> "types_pb2.Protocol.ValueType":
    """The enum of the contract; both are numbered as by IANA."""
    return cast("types_pb2.Protocol.ValueType", protocol.value)


def family_to_pb(family: Family) -> "types_pb2.IPFamily.ValueType":
    """The enum of the contract."""
    return cast("types_pb2.IPFamily.ValueType", family.value)


def prefix_to_pb(prefix: Prefix) -> types_pb2.IPPrefix:
    """The message of a CIDR block."""
    return types_pb2.IPPrefix(address=prefix.address, length=prefix.length)


def protocol_from_pb(number: int, field: str) -> Protocol:
    """The protocol; WireError for UNSPECIFIED or a number that is not known here."""
    try:
        return Protocol(number)
    except ValueError as error:
        raise WireError(f"{field}: {number} is not a known protocol") from error


def family_from_pb(number: int, field: str) -> Family:
    """The family; WireError for UNSPECIFIED or a number that is not known here."""
    try:
        return Family(number)
    except ValueError as error:
        raise WireError(f"{field}: {number} is not a known IP family") from error


def address_from_pb(address: bytes, field: str) -> bytes:
    """The address itself; WireError unless it has 4 or 16 bytes."""
    if len(address) not in {4, 16}:
        raise WireError(f"{field}: an address has 4 or 16 bytes, this one has {len(address)}")
    return address


def prefix_from_pb(message: types_pb2.IPPrefix, field: str) -> Prefix:
    """The block; WireError when the length does not fit the family or host bits are set."""
    address = address_from_pb(message.address, field)
    try:
        prefix = make_prefix(address, message.length)
    except ValueError as error:
        raise WireError(f"{field}: {error}") from error
    if prefix.address != address:
        raise WireError(f"{field}: {prefix} has host bits set")
    return prefix


def port_from_pb(port: int, field: str, *, zero_allowed: bool = False) -> int:
    """The port; WireError outside 1..65535 (0 only where it means "none")."""
    if not (0 if zero_allowed else 1) <= port <= PORT_MAX:
        raise WireError(f"{field}: {port} is not a port number")
    return port
