# SPDX-License-Identifier: Apache-2.0
"""`override`: what I want otherwise than the API server says, for a time."""

from __future__ import annotations

import functools
import getpass
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.types.v1.types_pb2 import NamespacedName
from pointsman_chassis.duration import Duration
from pointsman_ctl.commands.override_calls import Intent, apply_all, delete_one, get_one, list_all, renew_one
from pointsman_ctl.core import override_form as form
from pointsman_ctl.core.plain import plain
from pointsman_ctl.documents import read_documents
from pointsman_ctl.errors import UsageError
from pointsman_ctl.output import Format, View
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import DurationType, ServiceType

T = TypeVar("T")
Command = Callable[..., Any]


@click.group()
def override() -> None:
    """Drain, weight, pin or register endpoints, for a time.

    Nothing is written to the API server; deleting an override, or its TTL, takes it back. Precedence and limits stand
    in docs/overrides.md. ENDPOINTS are written as node=NAME, pod=NAME, pod-prefix=TEXT, address=IP or address=IP:PORT,
    joined by commas when all of them must hold.

    \b
    pointsmanctl override drain node-7-maintenance node=node-7 --ttl 2h --reason "kernel update"
    pointsmanctl override weight canary --service shop/web --rule pod-prefix=web-canary- 5 --ttl 1h
    pointsmanctl override delete canary -n shop
    """


def _owner() -> str:
    """Who I am, unless said otherwise."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return f"uid-{os.getuid()}"


def _with_change(command: Command) -> Command:
    """Adds how a change is meant; the command gets `intent`."""

    @functools.wraps(command)
    def wrapped(*, dry_run: bool, take_over: bool, wait: Duration | None, **rest: Any) -> Any:
        seconds = None if wait is None else float(wait)
        return command(intent=Intent(is_dry_run=dry_run, is_take_over=take_over, wait_seconds=seconds), **rest)

    made: Command = wrapped
    for option in (
        click.option("--wait", type=DurationType(), default=None, help="Then wait so long until every node has it."),
        click.option("--take-over", is_flag=True, help="Change it even if somebody else owns it."),
        click.option("--dry-run", is_flag=True, help="Check everything and change nothing."),
    ):
        made = option(made)
    return made


def _with_override(command: Command) -> Command:
    """Adds what every kind of override has; the command gets `made`, to fill in, and `intent`."""

    @functools.wraps(command)
    def wrapped(
        *, name: str, service: NamespacedName | None, namespace: str, owner: str, ttl: Duration | None, reason: str,
        **rest: Any,
    ) -> Any:  # fmt: skip
        if service is not None and namespace not in ("", service.namespace):
            raise UsageError(f"--namespace {namespace} is not that of --service {service.namespace}/{service.name}")
        made = pb.Override(owner=owner or _owner(), spec=pb.OverrideSpec(reason=reason))
        made.name.name = name
        made.name.namespace = service.namespace if service is not None else namespace
        made.spec.service_name = service.name if service is not None else ""
        if ttl is not None:
            made.spec.ttl.FromNanoseconds(round(ttl * 1e9))
        return command(made=made, **rest)

    options = (
        click.argument("name"),
        click.option(
            "--service", type=ServiceType(), default=None, help="The Service; its namespace is the override's."
        ),
        click.option("-n", "--namespace", default="", help="All Services of this namespace, without --service."),
        click.option("--owner", default="", help="Who wants it; without it, my user name."),
        click.option("--ttl", type=DurationType(), default=None, help="Ends by itself after this; without it, never."),
        click.option("--reason", default="", help="Why, for people."),
    )
    made: Command = _with_change(wrapped)
    for option in reversed(options):
        made = option(made)
    return made


def _parsed(parse: Callable[[str], T], texts: Iterable[str]) -> list[T]:
    try:
        return [parse(text) for text in texts]
    except ValueError as error:
        raise UsageError(str(error)) from error


@override.command()
@_with_override
@click.argument("endpoints")
@with_output("text", "json", "yaml")
@with_run
def drain(run: Run, shown: Format, made: pb.Override, intent: Intent, endpoints: str) -> None:
    """No new connections for ENDPOINTS, of one Service or of all."""
    made.spec.drain.endpoints.CopyFrom(_parsed(form.selector, [endpoints])[0])
    finish(apply_all(run, shown, [made], intent))


@override.command()
@_with_override
@click.option(
    "--rule", "rules", type=(str, int), multiple=True, required=True, metavar="ENDPOINTS WEIGHT", help="Shares."
)
@with_output("text", "json", "yaml")
@with_run
def weight(run: Run, shown: Format, made: pb.Override, intent: Intent, rules: tuple[tuple[str, int], ...]) -> None:
    """Shares of new connections: endpoints that no rule matches have weight 1."""
    for text, shares in rules:
        if not 0 <= shares < 1 << 32:
            raise UsageError(f"--rule {text} {shares}: a weight is 0 or more")
        made.spec.weight.rules.add(weight=shares).endpoints.CopyFrom(_parsed(form.selector, [text])[0])
    finish(apply_all(run, shown, [made], intent))


@override.command()
@_with_override
@click.argument("endpoints", nargs=-1, required=True)
@with_output("text", "json", "yaml")
@with_run
def pin(run: Run, shown: Format, made: pb.Override, intent: Intent, endpoints: tuple[str, ...]) -> None:
    """New connections for ENDPOINTS only, whatever else is ready."""
    made.spec.pin.endpoints.extend(_parsed(form.selector, endpoints))
    finish(apply_all(run, shown, [made], intent))


@override.command()
@_with_override
@click.option(
    "--port", "ports", multiple=True, required=True, metavar="[NAME:]PORT[/PROTOCOL]", help="Where they listen."
)
@click.option("--endpoint", "addresses", multiple=True, required=True, metavar="IP[@NODE]", help="An endpoint.")
@click.option("--zone-hint", "zones", multiple=True, help="A zone whose nodes should use them.")
@with_output("text", "json", "yaml")
@with_run
def register(
    run: Run, shown: Format, made: pb.Override, intent: Intent,
    ports: tuple[str, ...], addresses: tuple[str, ...], zones: tuple[str, ...],
) -> None:  # fmt: skip
    """Endpoints that no EndpointSlice lists.

    Virtual machines, for instance. They last while the override is renewed.
    """
    made.spec.register.ports.extend(_parsed(form.registered_port, ports))
    made.spec.register.endpoints.extend(_parsed(lambda text: form.registered_endpoint(text, zones), addresses))
    finish(apply_all(run, shown, [made], intent))


@override.command("apply")
@click.option(
    "-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="YAML or JSON; - is stdin."
)
@_with_change
@with_output("text", "json", "yaml")
@with_run
def apply_files(run: Run, shown: Format, intent: Intent, files: tuple[str, ...]) -> None:
    """Create or change the overrides of files.

    They have the form that `override get -o yaml` prints.
    """
    try:
        wanted = [form.read_override(document, where) for where, document in read_documents(files)]
    except ValueError as error:
        raise UsageError(str(error)) from error
    for made in wanted:
        made.owner = made.owner or _owner()
    finish(apply_all(run, shown, wanted, intent))


@override.command("list")
@click.option("--service", type=ServiceType(), default=None, help="Only those about this Service alone.")
@click.option("-n", "--namespace", default="", help="Only those of this namespace.")
@click.option("--owner", default="", help="Only those of this owner.")
@with_output()
@with_run
def list_overrides(run: Run, shown: Format, service: NamespacedName | None, namespace: str, owner: str) -> None:
    """The overrides in force."""
    about = service or (NamespacedName(namespace=namespace) if namespace else None)
    finish(list_all(run, shown, pb.ListOverridesRequest(service=about, owner=owner), view_of))


@override.command("get")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Its namespace; none when it is about all Services.")
@with_output("yaml", "json")
@with_run
def get(run: Run, shown: Format, name: str, namespace: str) -> None:
    """One override in full, as `apply` reads it."""
    finish(get_one(run, shown, _name(name, namespace)))


@override.command("renew")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Its namespace; none when it is about all Services.")
@with_output("text", "json", "yaml")
@with_run
def renew(run: Run, shown: Format, name: str, namespace: str) -> None:
    """Let an override last for its TTL from now."""
    finish(renew_one(run, shown, _name(name, namespace)))


@override.command("delete")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Its namespace; none when it is about all Services.")
@click.option("--owner", default="", help="Who I am; without it, my user name.")
@_with_change
@with_run
def delete(run: Run, intent: Intent, name: str, namespace: str, owner: str) -> None:
    """End an override."""
    finish(delete_one(run, _name(name, namespace), owner or _owner(), intent))


def view_of(found: list[pb.Override]) -> View[pb.Override]:
    """Overrides in every form."""
    return View(
        rows=found,
        columns=form.columns(time.time()),
        name=lambda each: f"override/{form.name_text(each)}",
        data=plain,
        none="no overrides",
    )


def _name(text: str, namespace: str) -> NamespacedName:
    before, slash, name = text.rpartition("/")
    return NamespacedName(namespace=before if slash else namespace, name=name)
