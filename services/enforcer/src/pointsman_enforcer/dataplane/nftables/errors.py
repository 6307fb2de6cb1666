# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and nf_tables.

NftablesError
 +-- NetlinkError         the kernel refused a message; nothing of the batch was applied
 +-- DumpInterruptedError the table changed while it was being read; read again
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Mapping


class NftablesError(Exception):
    """Base of all errors of this backend's lowest layer."""


class NetlinkError(NftablesError):
    """The kernel refused a batch: none of its messages took effect, unless `outcome_known` is false.

    Attributes:
        errno: the kernel's reason.
        message_index: index in the batch of the first message refused, or None when the batch as a whole was
            (for example: a loop of chains is found only at commit).
        offset: where in that message the kernel saw the fault, in bytes from its header, or None.
        what: the words of that message, for people.
        reason: the kernel's own sentence (extended acknowledgement), often empty.
        outcome_known: false only when the answers were lost (ENOBUFS): the batch may have been applied.
        reasons: the kernel's reason for every message refused, by index.
    """

    def __init__(
        self,
        *,
        errno: int,
        message_index: int | None,
        what: str,
        reason: str = "",
        offset: int | None = None,
        outcome_known: bool = True,
        reasons: Mapping[int, int] | None = None,
    ) -> None:
        self.errno = errno
        self.reasons = dict(reasons or {})
        self.message_index = message_index
        self.what = what
        self.reason = reason
        self.offset = offset
        self.outcome_known = outcome_known
        name = errno_names.errorcode.get(errno, str(errno))
        where = "the whole batch" if message_index is None else f"message {message_index}"
        said = f": {reason}" if reason else ""
        super().__init__(f"nf_tables refused {where} ({what}) with {name} ({os.strerror(errno)}){said}")


class DumpInterruptedError(NftablesError):
    """The kernel's objects changed during a dump, so what was read is not one consistent state; read again."""
