# SPDX-License-Identifier: Apache-2.0
"""The reference page of the command, made of the commands themselves: `python -m pointsman_ctl.reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator

import click

from pointsman_ctl.app import SECTIONS, application
from pointsman_ctl.run import connection_options

_HEAD = """\
# pointsmanctl

Every command, as its source describes it. Written by `make docs`; do not edit. Also runs as `kubectl pointsman`, when
`kubectl-pointsman` is on PATH.

## Which cluster, and who I am

    apiVersion: config.pointsman.io/v1alpha1
    kind: CtlConfiguration
    currentContext: production            # may be left out when there is one context
    contexts:
      - name: production
        servers: [10.0.0.5:7444, 10.0.0.6:7444]    # planners; the first that answers is asked
        security: {certFile: me.crt, keyFile: me.key, caFile: ca.crt}    # or tokenFile and caFile; serverName
        pages: [http://10.0.0.5:9444]     # planners' metricsBindAddress, for check and sysdump; else kubectl finds them
        kubeconfig: ""                    # for kubectl, where kubectl is used; kubectlContext likewise
        systemNamespace: pointsman-system
        jaeger: http://localhost:16686    # for trace

The file is `$XDG_CONFIG_HOME/pointsman/ctl.yaml` (usually below `~/.config`), or what `--config` or
`POINTSMAN_CONFIG` names; its relative paths are relative to it. A flag wins over the environment, and the environment
over the file. Every command that asks planners or the cluster takes these flags:

"""
_FORMS = """
## Forms and statuses

`-o` chooses the form: `table` or `text` for people, `wide` with more columns, `json` and `yaml` for programs (lists
have their rows under `items`; the fields are those of the control API, addresses as text, enum values as words), `name`
for pipes. Data goes to stdout, prose to stderr; progress is shown on a terminal only. `NO_COLOR` is heeded.

| status | meaning |
|---|---|
| 0 | done |
| 1 | it failed: a planner refused or did not answer, a check failed, kernels differ |
| 2 | the command line, the configuration or a file is wrong; nothing was done |
| 3 | the time was over before what was waited for came |
| 130 | interrupted |
"""


def page() -> str:
    """The page, as Markdown."""
    parts = [_HEAD, *_table(connection_options()), _FORMS]
    root = click.Context(application(), info_name="pointsmanctl")
    for title, commands in SECTIONS:
        parts.append(f"\n## {title}\n")
        for command in commands:
            parts += _command(command, click.Context(command, info_name=command.name, parent=root))
    return "".join(parts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    yield f"\n### {context.command_path.removeprefix('pointsmanctl ')}\n\n    {usage}\n\n"
    yield _prose(command.help or "")
    shared = {option.name for option in connection_options()}
    own = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name not in shared
    ]
    if own:
        yield "\n"
        yield from _table(own)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.commands[name]
            yield from _command(child, click.Context(child, info_name=name, parent=context))


def _prose(text: str) -> str:
    """A docstring's paragraphs; those that click is not to wrap become code."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            paragraphs.append("\n".join(f"    {line}" for line in paragraph.removeprefix("\b\n").splitlines()))
        else:
            paragraphs.append(paragraph.replace("<", "&lt;"))
    return "\n\n".join(paragraphs) + "\n"


def _table(options: Iterable[click.Option]) -> Iterator[str]:
    yield "| flag | meaning |\n|---|---|\n"
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.opts)
        takes = "" if option.is_flag else f" {_metavar(option)}"
        default = f" Default: {option.default}." if option.show_default else ""
        variable = f" Environment: `{option.envvar}`." if option.envvar else ""
        yield f"| {names}{takes} | {option.help}{default}{variable} |\n"


def _metavar(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return " \\| ".join(str(choice) for choice in option.type.choices)
    return (option.metavar or option.type.name.upper()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
