# SPDX-License-Identifier: Apache-2.0
"""`iptables.variant` to the program: as configured, or the one that this host uses."""

from __future__ import annotations

from pointsman_enforcer.dataplane.xtables.tools import Variant, detect


def variant_of(name: str) -> Variant:
    """The variant; UnsupportedError when `auto` finds none."""
    return detect() if name == "auto" else Variant(name)
