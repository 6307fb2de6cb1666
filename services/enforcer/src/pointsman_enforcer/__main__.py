# SPDX-License-Identifier: Apache-2.0
"""The command `pointsman-enforcer`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
from msgspec import structs

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.lifecycle import Stop, run
from pointsman_chassis.logs import configure_logging
from pointsman_chassis.settings import load_settings, write_settings
from pointsman_enforcer.dataplane.base import ProxyMode
from pointsman_enforcer.dataplane.conntrack import sysctls
from pointsman_enforcer.oom_score import adjust_oom_score
from pointsman_enforcer.settings import KIND, EnforcerConfiguration


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (2 wrong configuration, 3 unusable node)."""
    arguments = _parser().parse_args(argv)
    if arguments.version:
        from pointsman_enforcer.feed.connect import program_version  # noqa: PLC0415 - only here

        sys.stdout.write(f"pointsman-enforcer {program_version()}\n")
        return 0
    if arguments.command == "probe":
        return _probe(arguments)
    return run(lambda stop: _main(arguments, stop))


def _probe(arguments: argparse.Namespace) -> int:
    """0 when the mode asked for, or any mode with rules, works here; 1 when it could not be tried; else 3."""
    from pointsman_enforcer.dataplane.modes import probe as modes  # noqa: PLC0415 - only here

    configure_logging("enforcer", level="error", format="console")
    wanted = [each for each in modes.candidates() if arguments.mode in ("", each.config.mode)]
    report = modes.probe(wanted)
    lines = modes.as_text(report) if arguments.output == "text" else [modes.as_json(report)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if report.works if arguments.mode else report.is_usable:
        return 0
    return 1 if report.is_undecided else 3


async def _main(arguments: argparse.Namespace, stop: Stop) -> int:
    if arguments.convert_config:
        from pointsman_enforcer.convert.command import convert_file  # noqa: PLC0415 - only here

        convert_file(arguments.convert_config)
        return 0
    config = load_settings(arguments.config, EnforcerConfiguration, KIND)
    if arguments.hostname_override:
        config = structs.replace(config, hostname_override=arguments.hostname_override)
    if arguments.write_config_to:
        write_settings(arguments.write_config_to, config, KIND)
        return 0
    node = node_name(config.hostname_override)
    configure_logging("enforcer", level=config.logging.level, format=config.logging.format, fields={"node": node})
    if arguments.cleanup or arguments.cleanup_kube_proxy:
        from pointsman_enforcer.cleanup import cleanup  # noqa: PLC0415 - only here

        return await cleanup(config, is_ours=arguments.cleanup, is_kube_proxys=arguments.cleanup_kube_proxy)
    from pointsman_enforcer.dataplane.modes.choice import choose  # noqa: PLC0415 - the other options do without
    from pointsman_enforcer.dataplane.modes.factory import make_dataplane  # noqa: PLC0415 - as above
    from pointsman_enforcer.dataplane.modes.probe import why_not  # noqa: PLC0415 - as above
    from pointsman_enforcer.dataplane.modes.variant import detected  # noqa: PLC0415 - as above

    choice = choose(config, why_not, detected)
    if choice.config is not config:
        structlog.get_logger("app").info("mode chosen", mode=choice.config.mode, reason=choice.reason)
    config = choice.config
    if arguments.dry_run:
        from pointsman_enforcer.dry_run import dry_run  # noqa: PLC0415 - only here

        for line in await dry_run(make_dataplane(config), Path(config.state_directory)):
            sys.stdout.write(f"{line}\n")
        return 0
    sysctls.apply(config.conntrack.sysctls())
    if arguments.init_only:
        make_dataplane(config).close()
        return 0
    adjust_oom_score(config.oom_score_adj)
    from pointsman_enforcer.app import Enforcer  # noqa: PLC0415 - as above

    return await Enforcer(config, node, mode_reason=choice.reason).run(stop)


def node_name(configured: str) -> str:
    """The Node object's name: as configured, else NODE_NAME, else the host's; lower case, as kube-proxy has it.

    Raises:
        ConfigError: it is empty.
    """
    name = (configured or os.environ.get("NODE_NAME", "") or socket.gethostname()).strip().lower()
    if not name:
        raise ConfigError("hostnameOverride: give the name of this node, or set NODE_NAME")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pointsman-enforcer", description="Makes this node's Service traffic work.")
    add = parser.add_argument
    add(
        "--config",
        metavar="PATH",
        help=f"configuration (kind: {KIND}), a file or a directory of them; without it the defaults",
    )
    add("--hostname-override", metavar="NAME", default="", help="name of the Node object")
    add("--cleanup", action="store_true", help="remove what is ours, in all modes, and the plan on disk; and exit")
    add("--cleanup-kube-proxy", action="store_true", help="remove what a kube-proxy left, in all its modes, and exit")
    add("--dry-run", action="store_true", help="print what the plan on disk would change in the kernel, and exit")
    add(
        "--init-only",
        action="store_true",
        help="set sysctls, check that this node can run the configured mode, and exit",
    )
    add("--write-config-to", metavar="FILE", help="write the effective configuration, and exit")
    add(
        "--convert-config",
        metavar="FILE",
        help="read a KubeProxyConfiguration (or a ConfigMap with one; - = standard input), write what it comes to here "
        "to standard output and the account of it to standard error, and exit",
    )
    add("--version", action="store_true", help="print the version, and exit")
    commands = parser.add_subparsers(dest="command", metavar="probe")
    probe = commands.add_parser(
        "probe",
        help="say which modes this host can run, and why not the others; changes nothing, needs no configuration",
        description="Tries each mode in a network namespace of its own. "
        "Status 0: some mode works; 3: none does; 1: it could not be tried.",
    )
    probe.add_argument("-o", "--output", choices=("text", "json"), default="text", help="for people, or for programs")
    names = [mode.value for mode in ProxyMode]
    probe.add_argument("--mode", choices=names, default="", help="try this mode alone; the status is about it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
