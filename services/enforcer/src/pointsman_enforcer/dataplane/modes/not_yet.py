# SPDX-License-Identifier: Apache-2.0
"""What stands for `Handover` until there is time to import it, and where there is nothing to hand over."""

from __future__ import annotations

from typing import Any


class NotYet:
    """See `Handover`; nothing has been looked for."""

    def look(self) -> None:
        """Nothing waits for this."""

    def describe(self) -> dict[str, Any]:
        """For /statusz."""
        state = "waiting until everything planned is programmed"
        return {"leftovers": {"state": state, "found": {}}, "kubeProxy": {"state": state}}
