# SPDX-License-Identifier: Apache-2.0
"""All targets."""

from fuzz.harness import Target
from fuzz.targets import configuration, control, disk, enforcer, planner, watcher

TARGETS: tuple[Target, ...] = (
    *watcher.TARGETS,
    *planner.TARGETS,
    *enforcer.TARGETS,
    *disk.TARGETS,
    *configuration.TARGETS,
    *control.TARGETS,
)
