# SPDX-License-Identifier: Apache-2.0
"""Keeps `planners.json` in the state directory: the planners of this node, so that a restart finds them by itself.

It is a hint and nothing more. A file that is absent or damaged is no hint, and one that somebody else wrote can name
addresses, which then have to prove by their certificates that they are planners.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
import structlog

from pointsman_enforcer.core.candidates import Candidate, checked, is_address
from pointsman_enforcer.core.planner_directory import REMEMBERED_MAX, PlannerMemory

FILE_NAME: Final = "planners.json"
_BYTES_MAX: Final = 256 * 1024


class _Planner(msgspec.Struct, frozen=True):
    address: str
    id: str = ""


class _Document(msgspec.Struct, frozen=True):
    candidates: list[_Planner] = []
    """Best first."""
    known: list[str] = []
    """Addresses that led to a planner before, the most promising first."""


def load_planners(directory: Path) -> PlannerMemory:
    """Read the file; whatever is wrong with it is logged and left out."""
    path = directory / FILE_NAME
    log = structlog.get_logger("planner-file")
    try:
        with path.open("rb") as file:
            document = msgspec.json.decode(file.read(_BYTES_MAX), type=_Document)
    except FileNotFoundError:
        return PlannerMemory()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("list of planners on disk is of no use; going on without", path=str(path), error=str(error))
        return PlannerMemory()
    return PlannerMemory(
        checked(Candidate(each.address, each.id) for each in document.candidates),
        tuple(address for address in document.known if is_address(address))[:REMEMBERED_MAX],
    )


def save_planners(directory: Path, memory: PlannerMemory) -> None:
    """Write the file beside the old one and put it in its place. A disk that cannot be written is logged, no more."""
    document = _Document(
        candidates=[_Planner(each.address, each.planner_id) for each in memory.told], known=list(memory.remembered)
    )
    path, temporary = directory / FILE_NAME, directory / f"{FILE_NAME}.new"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=2))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        log = structlog.get_logger("planner-file")
        log.warning("list of planners not written to disk", path=str(path), error=str(error))


def remove_planners(directory: Path) -> None:
    """Delete the file. Raises OSError."""
    for name in (FILE_NAME, f"{FILE_NAME}.new"):
        (directory / name).unlink(missing_ok=True)
