# SPDX-License-Identifier: Apache-2.0
"""`config`: this command's own configuration, and a kube-proxy's turned into an enforcer's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click

from pointsman_chassis.settings import settings_as_data
from pointsman_ctl import console
from pointsman_ctl.commands.rules import enforcer_exec
from pointsman_ctl.documents import read_file
from pointsman_ctl.errors import CtlError, ToolError, UsageError
from pointsman_ctl.files import write_text
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.run import Run, with_output, with_run

_ENFORCER: Final = "pointsman-enforcer"
_SECONDS_MAX: Final = 60.0
_USAGE: Final = 2


@click.group()
def config() -> None:
    """My configuration; kube-proxy's, converted."""


@config.command()
@with_output("yaml", "json")
@with_run
def view(run: Run, shown: Format) -> None:
    """The context in use, with flags and environment applied. Files are named, never shown."""
    data: dict[str, Any] = settings_as_data(run.context)
    show_prose(data, [], shown)


@config.command()
@click.argument("file", required=False, default="")
@click.option("--from-cluster", is_flag=True, help="Read the ConfigMap kube-proxy in kube-system by kubectl.")
@click.option(
    "--node", default="", help="Convert by `kubectl exec` in this node's enforcer, if none is installed here."
)
@click.option("--write-to", metavar="FILE", default="", help="Write the configuration there, not to stdout.")
@with_run
def convert(run: Run, file: str, from_cluster: bool, node: str, write_to: str) -> None:
    """Convert a KubeProxyConfiguration to an EnforcerConfiguration.

    FILE (- for stdin) is the configuration, kubeadm's file with several documents, or a ConfigMap with it. What becomes
    of each field, and why, is told on stderr. The conversion is the enforcer's own (`pointsman-enforcer
    --convert-config`), so what comes out is what it reads: the command runs the one installed here, or one in the
    cluster.
    """
    if bool(file) == from_cluster:
        raise UsageError("name a FILE, or give --from-cluster")
    content = read_file(file) if file else kube_proxy_config(run)
    made, account = convert_config(run, content, node)
    console.note(account.rstrip("\n"))
    if write_to:
        write_text(write_to, made)
        console.note(f"wrote {write_to}")
    else:
        console.say([made.rstrip("\n")])


def kube_proxy_config(run: Run) -> bytes:
    """The ConfigMap that kubeadm and others give kube-proxy, as YAML.

    Raises:
        KubectlError: there is none, or it cannot be read.
    """
    return run.kubectl.run("get", "configmap", "kube-proxy", "-n", "kube-system", "-o", "yaml").encode()


def convert_config(run: Run, content: bytes, node: str = "") -> tuple[str, str]:
    """The EnforcerConfiguration, and the account of every field.

    Raises:
        UsageError: the source is wrong; says every problem.
        ToolError: there is no enforcer to ask.
    """
    # Who installed both in one environment need not have it on PATH.
    beside = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which(_ENFORCER, path=beside)
    argv = [*([found] if found else [*_in_cluster(run, node), _ENFORCER]), "--convert-config", "-"]
    try:
        done = subprocess.run(argv, input=content, capture_output=True, check=False, timeout=_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{argv[0]}: {error}") from error
    said = done.stderr.decode(errors="replace")
    if done.returncode == _USAGE:
        raise UsageError(said.strip().removeprefix("error: "))
    if done.returncode != 0:
        raise ToolError(f"{_ENFORCER} ended with {done.returncode}: {said.strip()}")
    return done.stdout.decode(errors="replace"), said


def _in_cluster(run: Run, node: str) -> list[str]:
    hint = f"install {_ENFORCER} here (pip install pointsman-enforcer), or name a --node whose enforcer is to convert"
    if not node:
        raise ToolError(f"{_ENFORCER} is not on PATH; {hint}")
    try:
        executed = enforcer_exec(run, node)
    except CtlError as error:
        raise ToolError(f"{error}\n  hint: {hint}") from error
    return run.kubectl.command("exec", "-i", *executed[1:])
