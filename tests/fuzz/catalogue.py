# SPDX-License-Identifier: Apache-2.0
"""All targets."""

from fuzz.harness import Target
from fuzz.targets import (
    configuration,
    control,
    convert,
    disk,
    enforcer,
    notifications,
    overrides,
    planner,
    planner_sources,
    store,
    watcher,
)

TARGETS: tuple[Target, ...] = (
    *watcher.TARGETS,
    *planner.TARGETS,
    *store.TARGETS,
    *overrides.TARGETS,
    *enforcer.TARGETS,
    *notifications.TARGETS,
    *disk.TARGETS,
    *planner_sources.TARGETS,
    *configuration.TARGETS,
    *convert.TARGETS,
    *control.TARGETS,
)
