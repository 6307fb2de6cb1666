# SPDX-License-Identifier: Apache-2.0
"""What this node knows of planners when it starts: its configuration, and what it kept of its last life."""

from __future__ import annotations

from pathlib import Path

from pointsman_enforcer.core.planner_directory import PlannerDirectory, Source
from pointsman_enforcer.disk.planner_file import load_planners
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_enforcer.validation import DNS


def names_to_resolve(config: EnforcerConfiguration) -> tuple[str, ...]:
    """The `host:port` of those planner addresses that stand for several."""
    return tuple(text.removeprefix(DNS) for text in config.planner_addresses if text.startswith(DNS))


def known_planners(config: EnforcerConfiguration, node: str) -> PlannerDirectory:
    """The directory to start with."""
    lookups = set()
    if names_to_resolve(config):
        lookups.add(Source.NAMES)
    if config.planner_lookup.is_possible:
        lookups.add(Source.API_SERVER)
    return PlannerDirectory(
        node=node,
        configured=[text for text in config.planner_addresses if not text.startswith(DNS)],
        lookups=lookups,
        memory=load_planners(Path(config.state_directory)),
    )
