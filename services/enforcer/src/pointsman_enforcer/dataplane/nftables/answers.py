# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers: datagrams in, judged outcome out. No socket here."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import parse
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pointsman_enforcer.dataplane.nftables.message import Batch

_HEADER: Final = struct.Struct("=IHHII")
_ERROR: Final = struct.Struct("=i")
_HEADER_BYTES: Final = 16
_NFGEN_BYTES: Final = 4


class Answer(NamedTuple):
    """One message from the kernel.

    Attributes:
        kind: message type, without the subsystem.
        sequence: number of the message it answers.
        error: None for data; 0 for an acknowledgement or the end of a dump; else an errno.
        payload: attributes, for data.
        reason: the kernel's own words on an error.
        offset: where in the refused message the fault lies.
        generation: low 16 bits of the generation of the ruleset that data was read from.
        interrupted: the kernel says that the dump this belongs to is not one consistent state. It says so for chains
            and sets; for elements it does not, and only the generation tells.
    """

    kind: int
    sequence: int
    error: int | None
    payload: bytes = b""
    reason: str = ""
    offset: int | None = None
    generation: int = 0
    interrupted: bool = False


def read_answers(datagram: bytes) -> Iterator[Answer]:
    """The messages of one datagram; raises ValueError when their lengths contradict it."""
    start = 0
    while start + _HEADER_BYTES <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, start)
        if length < _HEADER_BYTES or start + length > len(datagram):
            raise ValueError(f"netlink message at byte {start} claims {length} of {len(datagram)} bytes")
        body = datagram[start + _HEADER_BYTES : start + length]
        interrupted = bool(flags & uapi.NLM_F_DUMP_INTR)
        if kind == uapi.NLMSG_ERROR:
            yield _error(sequence, flags, body)
        elif kind == uapi.NLMSG_DONE:
            code = -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
            yield Answer(kind, sequence, code, interrupted=interrupted)
        else:
            generation = int.from_bytes(body[2:_NFGEN_BYTES], "big")
            payload = body[_NFGEN_BYTES:]
            yield Answer(kind & 0xFF, sequence, None, payload, generation=generation, interrupted=interrupted)
        start += (length + 3) & ~3


def verdict_of(answers: Sequence[Answer], *, batch: Batch, first: int, lost: bool) -> NetlinkError | None:
    """Judge a batch whose frame has number `first`: None when its commit is proven, else what went wrong.

    The kernel reports every message it refused, and then an error of the frame when the transaction as a whole was
    refused. The first refused message is the one worth telling: later ones may only have missed what it would make.
    """
    errors = sorted((answer for answer in answers if answer.error), key=lambda answer: answer.sequence)
    of_messages = [answer for answer in errors if first < answer.sequence <= first + len(batch.messages)]
    if of_messages:
        reasons = {answer.sequence - first - 1: answer.error or 0 for answer in of_messages}
        index = min(reasons)
        return _failure(of_messages[0], index, batch.messages[index].what, reasons)
    if errors:
        return _failure(errors[0], None, f"{len(batch.messages)} messages, at commit")
    proven = any(answer.error == 0 and answer.sequence == first + len(batch.messages) for answer in answers)
    if proven:
        return None
    code = errno.ENOBUFS if lost else errno.EPROTO
    return NetlinkError(
        errno=code,
        message_index=None,
        what=f"{len(batch.messages)} messages",
        reason="the acknowledgement was lost",
        outcome_known=False,
    )


def _failure(answer: Answer, index: int | None, what: str, reasons: Mapping[int, int] | None = None) -> NetlinkError:
    return NetlinkError(
        errno=answer.error or 0,
        message_index=index,
        what=what,
        reason=answer.reason,
        offset=answer.offset,
        reasons=reasons,
    )


def _error(sequence: int, flags: int, body: bytes) -> Answer:
    code = -_ERROR.unpack_from(body)[0]
    if not flags & uapi.NLM_F_ACK_TLVS:
        return Answer(uapi.NLMSG_ERROR, sequence, code)
    echoed = _HEADER_BYTES if flags & uapi.NLM_F_CAPPED else _HEADER.unpack_from(body, _ERROR.size)[0]
    details = parse(body[_ERROR.size + ((echoed + 3) & ~3) :])
    offset = details.get(uapi.NLMSGERR_ATTR_OFFS)
    return Answer(
        uapi.NLMSG_ERROR,
        sequence,
        code,
        reason=details.get(uapi.NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace"),
        offset=None if offset is None else struct.unpack("=I", offset)[0],
    )
