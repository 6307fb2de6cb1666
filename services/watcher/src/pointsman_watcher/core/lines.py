# SPDX-License-Identifier: Apache-2.0
"""Lines out of chunks of bytes, with a bound on what one line may take."""


class LineSplitter:
    """Keeps the unfinished line between calls. A line above the bound is skipped to its end and counted."""

    def __init__(self, *, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self.skipped_count = 0

    @property
    def is_mid_line(self) -> bool:
        """Whether the last chunk ended within a line."""
        return self._size > 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk, without line ends; empty lines are left out."""
        *complete, rest = chunk.split(b"\n")
        lines: list[bytes] = []
        for piece in complete:
            self._add(piece)
            if self._size > self._line_bytes_max:
                self.skipped_count += 1
            elif self._size:
                lines.append(b"".join(self._parts))
            self._parts.clear()
            self._size = 0
        self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        self._size += len(piece)
        if self._size > self._line_bytes_max:
            self._parts.clear()
        else:
            self._parts.append(piece)
