# SPDX-License-Identifier: Apache-2.0
"""The dataplane whose rules lead to the proxy, and what the proxy asks of it beside `Dataplane`.

Its kernel objects are those of its mode: adopted, mended and removed by its code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pointsman_enforcer.dataplane.base import Dataplane

Place = tuple[bytes, int]
"""Address and port."""


class Rules(NamedTuple):
    """Rules that lead to a proxy.

    Attributes:
        dataplane: what renders and programs them. What stays on this host keeps its source: the proxy is to see it.
        merge: two renderings as one.
        destinations: every place that rules of ours led to when they were last observed. Raises KernelError.
    """

    dataplane: Dataplane[Any]
    merge: Callable[[bytes, bytes], bytes]
    destinations: Callable[[], set[Place]]
