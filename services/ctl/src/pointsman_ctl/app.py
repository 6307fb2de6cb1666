# SPDX-License-Identifier: Apache-2.0
"""The commands, put together."""

from __future__ import annotations

from typing import Any, Final

import click

from pointsman_ctl.commands.check import check
from pointsman_ctl.commands.config import config
from pointsman_ctl.commands.connectivity import connectivity_test
from pointsman_ctl.commands.diff import diff
from pointsman_ctl.commands.migrate import migrate
from pointsman_ctl.commands.override import override
from pointsman_ctl.commands.packets import explain
from pointsman_ctl.commands.plan import plan
from pointsman_ctl.commands.rules import rules
from pointsman_ctl.commands.services import endpoints, services
from pointsman_ctl.commands.status import status
from pointsman_ctl.commands.sysdump import sysdump
from pointsman_ctl.commands.trace import trace
from pointsman_ctl.commands.version import completion, version
from pointsman_ctl.commands.wait import wait

SECTIONS: Final = (
    ("See", (status, services, endpoints, plan, rules, diff, explain, trace)),
    ("Look after", (check, connectivity_test, sysdump, migrate)),
    ("Change and wait", (wait, override)),
    ("This command", (config, version, completion)),
)


class Commands(click.Group):
    """The commands in sections, as people look for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of the sections."""
        return [str(command.name) for _, commands in SECTIONS for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """One list for each section."""
        for title, commands in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(str(each.name), each.get_short_help_str(90)) for each in commands])


def application() -> click.Group:
    """The whole command line."""
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    group = Commands(
        name="pointsmanctl",
        help="Asks Pointsman: which node has what, where a packet goes and why, what is wrong and what to do.",
        epilog="Statuses: 0 done, 1 failed, 2 wrong command line or configuration, 3 the time was over.",
        context_settings=settings,
        no_args_is_help=True,
    )
    for _, commands in SECTIONS:
        for command in commands:
            group.add_command(command)
    return group
