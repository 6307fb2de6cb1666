# SPDX-License-Identifier: Apache-2.0
"""`iptables.variant` to the program: as configured, or the one that this host uses."""

from __future__ import annotations

from pointsman_enforcer.dataplane.xtables.tools import Variant, detect
from pointsman_enforcer.mode_settings import VariantName


def variant_of(name: str) -> Variant:
    """The variant; UnsupportedError when `auto` finds none."""
    return detect() if name == "auto" else Variant(name)


def detected() -> VariantName:
    """The name of the one that this host uses."""
    return "legacy" if detect() is Variant.LEGACY else "nft"
