# SPDX-License-Identifier: Apache-2.0
"""An archive that is filled part by part; what cannot be had is noted and does not keep the others out."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pointsman_chassis.errors import ConfigError
from pointsman_ctl import console
from pointsman_ctl.core.redact import redact_object, redact_text
from pointsman_ctl.errors import CtlError, UsageError


class Dump:
    """A tar.gz under one directory of its own. Everything that goes in is redacted here, and nowhere else."""

    def __init__(self, path: str, root: str) -> None:
        """Opens the file, readable by its owner only.

        Raises:
            UsageError: it cannot be written.
        """
        self.parts: list[dict[str, Any]] = []
        self._root = root
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self._file = os.fdopen(descriptor, "wb")
        self._archive = tarfile.open(fileobj=self._file, mode="w:gz")  # noqa: SIM115 - ended by `close`

    async def collect(self, name: str, get: Callable[[], Awaitable[Any]]) -> None:
        """One part: text is taken as it is, anything else becomes JSON."""
        console.progress(f"collecting {name} ...")
        try:
            self.add(name, await get())
        except (CtlError, ConfigError) as error:
            self.parts.append({"name": name, "error": redact_text(str(error))[0]})

    def add(self, name: str, content: Any) -> None:
        """Redact a part and write it."""
        if not isinstance(content, str):
            content = msgspec.json.format(msgspec.json.encode(redact_object(content)), indent=2).decode()
        text, count = redact_text(content)
        data = text.encode()
        entry = tarfile.TarInfo(f"{self._root}/{name}")
        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
        self._archive.addfile(entry, io.BytesIO(data))
        self.parts.append({"name": name, "bytes": len(data), "redactions": count})

    def close(self, about: dict[str, Any]) -> None:
        """Write `manifest.json`, which lists what is there and what is missing, and end the file."""
        parts = list(self.parts)
        self.add("manifest.json", {**about, "parts": parts})
        self._archive.close()
        self._file.close()
