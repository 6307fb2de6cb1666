# SPDX-License-Identifier: Apache-2.0
"""The enforcer's command, which writes down what was imported: `python -m support.imported_main FILE ARGUMENTS...`.

FILE gets the names of all modules that were there when the kernel first had the plan, an empty line, and those that
were there at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman_enforcer import app
from pointsman_enforcer.__main__ import main

if TYPE_CHECKING:
    from pointsman_enforcer.core.plan_session import Programmed
    from pointsman_enforcer.dataplane.work import Pending, Tally

_noted: list[str] = []


class NotingEnforcer(app.Enforcer):
    """Notes what is imported when the kernel has the plan for the first time."""

    def _synced(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        if not _noted:
            _noted.extend(sys.modules)
        super()._synced(pending, programmed, tally)


if __name__ == "__main__":
    target = Path(sys.argv.pop(1))
    app.Enforcer = NotingEnforcer  # type: ignore[misc] # the command takes it from there
    status = main()
    target.write_text("\n".join((*sorted(_noted), "", *sorted(sys.modules))))
    sys.exit(status)
