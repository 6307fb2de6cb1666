# SPDX-License-Identifier: Apache-2.0
"""The command `pointsman-watcher`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import structlog

from pointsman_chassis.errors import EXIT_CONFIG, ConfigError
from pointsman_chassis.lifecycle import Stop, run
from pointsman_chassis.logs import configure_logging
from pointsman_chassis.settings import dump_settings, load_settings, settings_as_data, write_settings
from pointsman_watcher.app import run_watcher
from pointsman_watcher.settings import KIND, WatcherSettings

_FOLLOW = (
    "Watches a Kubernetes API server and streams its Services, EndpointSlices, Nodes and ServiceCIDRs to planners."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse flags and configuration, then run; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = _override(load_settings(options.config, WatcherSettings, KIND), options)
        if options.write_config_to:
            return _write_config(settings, options.write_config_to)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CONFIG
    configure_logging("pointsman-watcher", level=settings.logging.level, format=settings.logging.format)
    structlog.get_logger("app").info("configuration", effective=settings_as_data(settings))

    async def work(stop: Stop) -> int:
        return await run_watcher(settings, stop)

    return run(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman-watcher", description=_FOLLOW)
    parser.add_argument(
        "--config", metavar="PATH", help=f"configuration of kind {KIND}: a file, or a directory of them"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="overrides kubernetes.kubeconfig")
    parser.add_argument("--listen-address", metavar="HOST:PORT", help="overrides listenAddress")
    parser.add_argument(
        "--write-config-to", metavar="FILE", help="write the effective configuration and exit; - is stdout"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('pointsman-watcher')}")
    return parser


def _override(settings: WatcherSettings, options: argparse.Namespace) -> WatcherSettings:
    """The settings with the flags that were given."""
    if options.kubeconfig:
        kubernetes = msgspec.structs.replace(settings.kubernetes, kubeconfig=options.kubeconfig)
        settings = msgspec.structs.replace(settings, kubernetes=kubernetes)
    if options.listen_address:
        settings = msgspec.structs.replace(settings, listen_address=options.listen_address)
    return settings


def _write_config(settings: WatcherSettings, path: str) -> int:
    if path == "-":
        sys.stdout.write(dump_settings(settings, KIND))
    else:
        write_settings(path, settings, KIND)
    return 0


if __name__ == "__main__":
    sys.exit(main())
