# SPDX-License-Identifier: Apache-2.0
"""A removal of another mode's leftovers that was cut short is not taken for one that is over."""

from __future__ import annotations

import asyncio
import errno

import pytest

from pointsman_enforcer.dataplane.leftovers import LeftoverError, sweep
from pointsman_enforcer.dataplane.modes import own_leftovers
from pointsman_enforcer.dataplane.modes.own_leftovers import IpvsLeftover, NftablesLeftover
from pointsman_enforcer.dataplane.xtables.tools import Variant
from support.netns import NetNs

pytestmark = pytest.mark.root
VARIANTS = pytest.mark.parametrize("variant", list(Variant))


@VARIANTS
def test_sets_of_ipvs_mode_without_chains_are_still_a_leftover(variant: Variant) -> None:
    with NetNs("cut-short") as namespace:
        leftover = IpvsLeftover(variant, at_once=True)
        assert namespace.call(lambda: asyncio.run(leftover.find())) == ""
        namespace.run("ipset", "create", "pointsman-ipvs-vips4", "hash:ip")
        assert (
            namespace.call(lambda: asyncio.run(leftover.find())) == "1 sets without chains, with their virtual servers"
        )
        swept = namespace.call(lambda: asyncio.run(sweep(leftover)))
        assert swept.is_over == ("pointsman-ipvs-vips4" not in namespace.run("ipset", "list", "-name"))


@VARIANTS
def test_sets_that_the_other_variant_s_chains_use_are_that_one_s(variant: Variant) -> None:
    other = next(each for each in Variant if each is not variant)
    with NetNs("cut-short") as namespace:
        namespace.run("ipset", "create", "pointsman-ipvs-vips4", "hash:ip")
        namespace.run(f"iptables-{other.value}", "-t", "mangle", "-N", "POINTSMAN-IPVS-SERVICES")
        assert namespace.call(lambda: asyncio.run(IpvsLeftover(variant, at_once=True).find())) == ""
        assert namespace.call(lambda: asyncio.run(IpvsLeftover(other, at_once=True).find())).startswith("1 chains")


async def test_who_cannot_look_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_descriptors() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(own_leftovers, "NftSocket", without_descriptors)
    with pytest.raises(LeftoverError, match="Too many open files"):
        await NftablesLeftover().find()
