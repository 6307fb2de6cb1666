# SPDX-License-Identifier: Apache-2.0
"""What every command shares: flags that lead to planners and to kubectl, flags of output, and one run of it all.

Flags stand behind the command, where people write them; `with_*` add them, read them, and hand the command one value
instead: `run` (a Run) or `shown` (a Format).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
from msgspec import structs

from pointsman_chassis.duration import Duration
from pointsman_ctl.kubectl import Kubectl
from pointsman_ctl.output import FORMATS, Format
from pointsman_ctl.planner import Planner, connect
from pointsman_ctl.settings import Context, load_context, with_security
from pointsman_ctl.types import DurationType

Command = Callable[..., Any]
T = TypeVar("T")
_REQUEST_TIMEOUT: Final = "10s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a command: whom to ask, and how long."""

    context: Context
    timeout_seconds: float

    @asynccontextmanager
    async def planner(self) -> AsyncIterator[Planner]:
        """A planner that answers; errors as in `connect`."""
        async with connect(self.context, timeout_seconds=self.timeout_seconds) as planner:
            yield planner

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl for the context's cluster."""
        return Kubectl(
            kubeconfig=self.context.kubeconfig,
            context=self.context.kubectl_context,
            timeout_seconds=self.timeout_seconds,
        )


_CONNECTION: Final[tuple[Callable[[Command], Command], ...]] = (
    click.option("--config", metavar="FILE", default="", envvar="POINTSMAN_CONFIG", help="Configuration file."),
    click.option("--context", default="", envvar="POINTSMAN_CONTEXT", help="Which context of the configuration."),
    click.option(
        "-s", "--server", "servers", multiple=True, metavar="HOST:PORT", envvar="POINTSMAN_SERVERS",
        help="A planner; may be repeated, the first that answers is asked.",
    ),
    click.option("--tls-cert", metavar="FILE", default="", envvar="POINTSMAN_TLS_CERT", help="My certificate (PEM)."),
    click.option("--tls-key", metavar="FILE", default="", envvar="POINTSMAN_TLS_KEY", help="Its key (PEM)."),
    click.option("--tls-ca", metavar="FILE", default="", envvar="POINTSMAN_TLS_CA", help="The planners' CA (PEM)."),
    click.option(
        "--tls-server-name", metavar="NAME", default="", envvar="POINTSMAN_TLS_SERVER_NAME",
        help="Name to expect in the planner's certificate when it is dialled by another.",
    ),
    click.option(
        "--token-file", metavar="FILE", default="", envvar="POINTSMAN_TOKEN_FILE", help="File with my bearer token."
    ),
    click.option(
        "--insecure", is_flag=True, envvar="POINTSMAN_INSECURE", help="Plaintext; for loopback addresses only."
    ),
    click.option("--kubeconfig", metavar="FILE", default="", help="For kubectl, where kubectl is used."),
    click.option("--kubectl-context", metavar="NAME", default="", help="Context of kubectl, where kubectl is used."),
    click.option(
        "--request-timeout", type=DurationType(), default=_REQUEST_TIMEOUT, show_default=True,
        help="How long to wait for each answer.",
    ),
)  # fmt: skip


def connection_options() -> list[click.Option]:
    """The flags that `with_run` adds, as they stand in help."""

    @with_run
    def nothing(run: Run) -> None:
        """Take the flags."""

    found = click.command(nothing).params
    return [parameter for parameter in found if isinstance(parameter, click.Option)]


def with_run(command: Command) -> Command:
    """Adds the flags that lead to a cluster; the command gets `run`."""

    @functools.wraps(command)
    def wrapped(
        *, config: str, context: str, servers: tuple[str, ...], tls_cert: str, tls_key: str, tls_ca: str,
        tls_server_name: str, token_file: str, insecure: bool, kubeconfig: str, kubectl_context: str,
        request_timeout: Duration, **rest: Any,
    ) -> Any:  # fmt: skip
        chosen = load_context(config, context)
        chosen = with_security(
            chosen, cert=tls_cert, key=tls_key, ca=tls_ca, server_name=tls_server_name, token_file=token_file,
            insecure=insecure,
        )  # fmt: skip
        changes: dict[str, Any] = {
            "servers": servers,
            "kubeconfig": kubeconfig,
            "kubectl_context": kubectl_context,
        }
        chosen = structs.replace(chosen, **{name: value for name, value in changes.items() if value})
        return command(run=Run(context=chosen, timeout_seconds=float(request_timeout)), **rest)

    made: Command = wrapped
    for option in reversed(_CONNECTION):
        made = option(made)
    return made


def with_output(*formats: str) -> Callable[[Command], Command]:
    """Adds `-o` and `--no-headers`; the command gets `shown`. Without formats, all there are."""
    choice = click.Choice(formats or FORMATS)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(output: str, *, no_headers: bool, **rest: Any) -> Any:
            return command(shown=Format(name=output, heads=not no_headers), **rest)

        bare = click.option("--no-headers", is_flag=True, help="Leave the heads of columns out.")(wrapped)
        form = click.option("-o", "--output", type=choice, default=choice.choices[0], show_default=True, help="Form.")
        return form(bare)

    return decorate


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's calls to their end."""
    return asyncio.run(work)
