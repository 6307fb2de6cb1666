# SPDX-License-Identifier: Apache-2.0
"""The configuration of a deployed service, read by the service's own loader."""

from functools import cache
from types import ModuleType
from typing import Any, Final

import pointsman_enforcer.settings
import pointsman_planner.settings
import pointsman_watcher.settings
from pointsman_chassis.settings import Settings, parse_layers, settings_as_data
from support.manifests import Manifest, config_layers, render

LOADERS: Final[dict[str, tuple[type[Settings], ModuleType]]] = {
    "watcher": (pointsman_watcher.settings.WatcherSettings, pointsman_watcher.settings),
    "planner": (pointsman_planner.settings.PlannerSettings, pointsman_planner.settings),
    "enforcer": (pointsman_enforcer.settings.EnforcerConfiguration, pointsman_enforcer.settings),
}


@cache
def deployed_settings(rendered: str, service: str) -> dict[str, Any]:
    """All of a service's settings in one of `manifests.RENDERED`; see `settings_in`."""
    return settings_in(render(rendered), service)


def settings_in(manifests: tuple[Manifest, ...], service: str) -> dict[str, Any]:
    """All of a service's settings, as plain data. ConfigError when they are refused."""
    settings_type, module = LOADERS[service]
    return settings_as_data(parse_layers(config_layers(manifests, service), settings_type, module.KIND))
