# SPDX-License-Identifier: Apache-2.0
"""Looks at planners: each by its address, their pages, their certificates, their clock, and what they say of nodes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from msgspec import structs

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.tls import TransportSecurity
from pointsman_ctl.checks.look import Look
from pointsman_ctl.core import judge_planners
from pointsman_ctl.core.judge_cluster import judge_clock
from pointsman_ctl.core.judge_machine import judge_certificate
from pointsman_ctl.core.verdict import Result, failed, passed, skipped
from pointsman_ctl.errors import CtlError
from pointsman_ctl.pages import planner_status
from pointsman_ctl.planner import connect, messages
from pointsman_ctl.run import Run

_PLANNERS: Final = judge_planners.PLANNERS
_IDENTITY: Final = "certificates"
_HEARTBEATS: Final = 2.5
_REACH: Final = (
    "`--server`, or `servers` of the context, names planners; see that they run and can be reached from here"
)


def planner_looks(run: Run) -> list[Look]:
    """Everything about planners and nodes."""
    looks = [
        Look(category=_PLANNERS, name=address, see=partial(_answers, run, address), hint=_REACH)
        for address in run.context.servers
    ]
    looks.append(Look(category=_PLANNERS, name="clock", see=partial(_clock, run), hint=_REACH))
    looks.append(
        Look(
            category=_PLANNERS,
            name="pages",
            see=partial(_pages, run),
            hint="name the planners' metricsBindAddress in `pages` of the context; else kubectl must reach the pods",
        )
    )
    looks.append(Look(category=judge_planners.NODES, name="nodes", see=partial(_nodes, run), hint=_REACH))
    looks.append(Look(category=judge_planners.SERVICES, name="conflicts", see=partial(_services, run), hint=_REACH))
    if not run.context.security.insecure:
        looks += [
            Look(category=_IDENTITY, name=address, see=partial(_served, run, address), hint=_REACH)
            for address in run.context.servers
        ]
        looks.append(
            Look(
                category=_IDENTITY,
                name="mine",
                see=partial(_mine, run.context.security),
                hint="name PEM files that exist",
            )
        )
    return looks


async def _answers(run: Run, address: str) -> list[Result]:
    alone = structs.replace(run.context, servers=(address,))
    async with connect(alone, timeout_seconds=run.timeout_seconds) as planner:
        started = time.monotonic()
        await planner.ask(planner.control.ListNodes, pb.ListNodesRequest(page_size=1))
        return [passed(_PLANNERS, address, f"answers in {(time.monotonic() - started) * 1000:.0f} ms")]


async def _clock(run: Run) -> list[Result]:
    """By the first heartbeat of a watch, which has the planner's clock."""
    async with run.planner() as planner:
        # A name that no node has: nothing but heartbeats comes.
        request = pb.WatchNodesRequest(nodes=pb.NodeSelector(label_selector="pointsman.io/none=none"))
        patience = run.timeout_seconds
        try:
            async with asyncio.timeout(patience) as deadline:
                async for message in messages(planner.address, planner.control.WatchNodes(request)):
                    if message.HasField("opened"):
                        interval = message.opened.heartbeat_interval.ToNanoseconds() / 1e9
                        deadline.reschedule(asyncio.get_running_loop().time() + _HEARTBEATS * interval + patience)
                    if message.HasField("heartbeat"):
                        skew = message.heartbeat.sent_at.ToNanoseconds() / 1e9 - time.time()
                        return [judge_clock(_PLANNERS, f"clock of {planner.address}", skew)]
        except TimeoutError:
            pass
    return [skipped(_PLANNERS, "clock", "no heartbeat came")]


async def _pages(run: Run) -> list[Result]:
    pages = await planner_status(run)
    async with run.planner() as planner:
        nodes = await planner.nodes()
    results: list[Result] = []
    for judge in (judge_planners.judge_sync, judge_planners.judge_store, judge_planners.judge_degraded):
        results += [judge(page) for page in pages]
    return [*results, judge_planners.judge_shards(nodes, pages)]


async def _nodes(run: Run) -> list[Result]:
    async with run.planner() as planner:
        nodes = await planner.nodes()
    return [
        judge_planners.judge_nodes(nodes),
        judge_planners.judge_versions(nodes),
        judge_planners.judge_modes(nodes),
        judge_planners.judge_drift(nodes, time.time()),
    ]


async def _services(run: Run) -> list[Result]:
    async with run.planner() as planner:
        return [judge_planners.judge_conflicts(await planner.services())]


async def _served(run: Run, address: str) -> list[Result]:
    return [await asyncio.to_thread(_served_certificate, run, address)]


def _served_certificate(run: Run, address: str) -> Result:
    """By a handshake of our own: gRPC does not show the certificate of the server."""
    security = run.context.security
    host, _, port = address.removeprefix("dns:").lstrip("/").rpartition(":")
    host = host.strip("[]")
    try:
        tls = ssl.create_default_context(cafile=security.ca_file)
        tls.set_alpn_protocols(["h2"])
        if security.cert_file:
            tls.load_cert_chain(security.cert_file, security.key_file)
        text = ssl.DER_cert_to_PEM_cert(_handshake(tls, host, int(port), security.server_name, run.timeout_seconds))
    except (OSError, ValueError) as error:
        hint = "does --tls-ca (caFile) hold the planners' CA, and the certificate this name (--tls-server-name)?"
        return failed(_IDENTITY, f"of {address}", f"TLS fails: {error}", hint)
    return _judged(f"of {address}", text.encode())


def _handshake(tls: ssl.SSLContext, host: str, port: int, name: str, seconds: float) -> bytes:
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        tls.wrap_socket(plain, server_hostname=name or host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


async def _mine(security: TransportSecurity) -> list[Result]:
    return await asyncio.to_thread(_my_files, security)


def _my_files(security: TransportSecurity) -> list[Result]:
    files = {"mine": security.cert_file, "the planners' CA": security.ca_file}
    results = []
    for name, file in files.items():
        if not file:
            continue
        try:
            results.append(_judged(f"{name} ({file})", Path(file).read_bytes()))
        except (OSError, ValueError) as error:
            raise CtlError(f"{file}: {error}") from error
    if security.token_file:
        results.append(_token(security.token_file))
    return results


def _token(file: str) -> Result:
    try:
        is_empty = not Path(file).read_bytes().strip()
    except OSError as error:
        raise CtlError(f"{file}: {error}") from error
    if is_empty:
        return failed(_IDENTITY, "token", f"{file} is empty", "mount a service account token there")
    return passed(_IDENTITY, "token", f"{file} has one")


def _judged(name: str, pem: bytes) -> Result:
    """The one of a chain that ends first."""
    chain: Sequence[x509.Certificate] = x509.load_pem_x509_certificates(pem)
    first = min(chain, key=lambda each: each.not_valid_after_utc)
    return judge_certificate(
        _IDENTITY,
        name,
        begins=first.not_valid_before_utc,
        ends=first.not_valid_after_utc,
        now=datetime.now(UTC),
    )
