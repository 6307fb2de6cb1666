# SPDX-License-Identifier: Apache-2.0
"""The rules in force: those of the configuration, and those of a file that may be replaced at any time."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import load_settings
from pointsman_planner.access.settings import RULES_KIND, AccessSettings, RulesFile
from pointsman_planner.core.rights import Rule


class RuleBook:
    """Gives the rules as they are now."""

    def __init__(self, settings: AccessSettings) -> None:
        """Raises ConfigError when the file cannot be read or is wrong."""
        self._fixed = tuple(each.rule() for each in settings.rules)
        self._path = settings.rules_file
        self._stamp: tuple[int, int] | None = None
        self._read: tuple[Rule, ...] = ()
        if self._path:
            self._stamp = self._present_stamp()
            self._read = self._load()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules. A file that went bad leaves those that it had before in force, and is complained about."""
        if self._path:
            stamp = self._present_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._take()
        return self._fixed + self._read

    def _take(self) -> None:
        log = structlog.get_logger("access")
        try:
            self._read = self._load()
        except ConfigError as error:
            log.warning("the rules file cannot be used; the rules before stay in force", error=str(error))
            return
        log.info("rules read again", file=self._path, rules=len(self._read))

    def _load(self) -> tuple[Rule, ...]:
        return tuple(each.rule() for each in load_settings(Path(self._path), RulesFile, RULES_KIND).rules)

    def _present_stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - called for each decision; pathlib adds only cost
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino)
