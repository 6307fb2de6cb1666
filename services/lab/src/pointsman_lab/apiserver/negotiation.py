# SPDX-License-Identifier: Apache-2.0
"""Content negotiation: JSON is what we write, whole, as a Table or as metadata only.

JSON, YAML and, for the kinds in its schema, Kubernetes protobuf are what we read.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec
import yaml

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.encoding import decode_json
from pointsman_lab.apiserver.protobuf.decoder import ProtobufDecoder, UnknownKindError

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON_TYPE: Final = "application/json"
YAML_TYPE: Final = "application/yaml"
PROTOBUF_TYPE: Final = "application/vnd.kubernetes.protobuf"
READ_TYPES: Final = (JSON_TYPE, YAML_TYPE, PROTOBUF_TYPE)
_ANY: Final = ("*/*", "application/*", JSON_TYPE)


class Form(enum.Enum):
    """How an answer shows its objects."""

    OBJECT = "object"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


def accepted_form(accept: str) -> Form:
    """Give the first form of an Accept header that we can write; an absent header takes anything.

    Protobuf is never written, so a client that lists it first and JSON later gets JSON, as it would from a real
    server for a resource without protobuf.

    Raises:
        ApiError: 406 when there is none.
    """
    for entry in (accept or "*/*").split(","):
        media, *parameters = (part.strip() for part in entry.split(";"))
        given = dict(part.partition("=")[::2] for part in parameters)
        if media not in _ANY:
            continue
        match given.get("as", ""):
            case "":
                return Form.OBJECT
            case "Table" if given.get("v", "v1") == "v1":
                return Form.TABLE
            case "PartialObjectMetadata" | "PartialObjectMetadataList":
                return Form.METADATA
    raise errors.not_acceptable(JSON_TYPE)


class BodyReader:
    """Decodes request bodies; the protobuf schema is read when the first such body comes."""

    def __init__(self) -> None:
        self._protobuf: ProtobufDecoder | None = None

    def read(self, content_type: str, raw: bytes, accepted: Sequence[str] = READ_TYPES) -> object:
        """Decode a body by its media type; no body is None.

        Raises:
            ApiError: 415 for a type that is not accepted or a kind that is not in the protobuf schema, 400 for a body
                that does not parse.
        """
        media = content_type.partition(";")[0].strip().lower() or JSON_TYPE
        if not raw:
            return None
        if media not in accepted:
            raise errors.unsupported_media_type(media, accepted)
        if media == PROTOBUF_TYPE:
            return self._read_protobuf(raw)
        try:
            if "yaml" in media and not raw.lstrip().startswith(b"{"):
                return yaml.safe_load(raw)
            return decode_json(raw)
        except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise errors.bad_request(f"the body could not be read as {media}: {error}") from error

    def _read_protobuf(self, raw: bytes) -> object:
        if self._protobuf is None:
            self._protobuf = ProtobufDecoder()
        try:
            return self._protobuf.decode(raw)
        except UnknownKindError as error:
            raise errors.unsupported_media_type(f"{PROTOBUF_TYPE}: {error}", (JSON_TYPE, YAML_TYPE)) from error
        except ValueError as error:
            raise errors.bad_request(f"the body could not be read as {PROTOBUF_TYPE}: {error}") from error
