# SPDX-License-Identifier: Apache-2.0
"""All targets."""

from fuzz.harness import Target
from fuzz.targets import configuration, control, convert, disk, enforcer, notifications, planner, store, watcher

TARGETS: tuple[Target, ...] = (
    *watcher.TARGETS,
    *planner.TARGETS,
    *store.TARGETS,
    *enforcer.TARGETS,
    *notifications.TARGETS,
    *disk.TARGETS,
    *configuration.TARGETS,
    *convert.TARGETS,
    *control.TARGETS,
)
