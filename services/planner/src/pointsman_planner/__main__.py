# SPDX-License-Identifier: Apache-2.0
"""The command `pointsman-planner`."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version

import msgspec
import structlog

from pointsman_chassis.errors import ConfigError, exit_status
from pointsman_chassis.lifecycle import Stop, run
from pointsman_chassis.logs import configure_logging
from pointsman_chassis.settings import dump_settings, load_settings, write_settings
from pointsman_planner.app import App
from pointsman_planner.settings import KIND, PlannerSettings, shown_settings


def main() -> None:
    """Run a planner until it is asked to stop."""
    arguments = _parser().parse_args()
    try:
        settings = _settings(arguments)
        if arguments.write_config_to:
            _write(settings, arguments.write_config_to)
            sys.exit(0)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_status(error))
    configure_logging("pointsman-planner", level=settings.logging.level, format=settings.logging.format)

    async def body(stop: Stop) -> int:
        structlog.get_logger("planner").info("effective configuration", configuration=shown_settings(settings))
        return await App(settings).run(stop)

    sys.exit(run(body))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman-planner", description="Cluster state to per-node plans.")
    parser.add_argument("--config", metavar="PATH", help=f"configuration, kind {KIND}: a file, or a directory of them")
    parser.add_argument("--listen-address", metavar="HOST:PORT", help="overrides listenAddress")
    parser.add_argument(
        "--write-config-to", metavar="FILE", help="write the effective configuration and exit; - is stdout"
    )
    parser.add_argument("--version", action="version", version=f"pointsman-planner {version('pointsman-planner')}")
    return parser


def _write(settings: PlannerSettings, path: str) -> None:
    if path == "-":
        sys.stdout.write(dump_settings(settings, KIND))
    else:
        write_settings(path, settings, KIND)


def _settings(arguments: argparse.Namespace) -> PlannerSettings:
    settings = load_settings(arguments.config, PlannerSettings, KIND)
    if arguments.listen_address:
        settings = msgspec.structs.replace(settings, listen_address=arguments.listen_address)
    return settings


if __name__ == "__main__":
    main()
