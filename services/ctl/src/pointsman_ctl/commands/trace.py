# SPDX-License-Identifier: Apache-2.0
"""`trace`: how a recent change travelled to every node."""

from __future__ import annotations

import re
import subprocess
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from pointsman.types.v1.types_pb2 import NamespacedName
from pointsman_chassis.duration import Duration
from pointsman_ctl import console
from pointsman_ctl.core.trace import Span, TraceFormatError, is_about, read_traces
from pointsman_ctl.core.waterfall import trace_data, waterfall
from pointsman_ctl.documents import read_file
from pointsman_ctl.errors import CtlError, ToolError, UsageError
from pointsman_ctl.http import fetch
from pointsman_ctl.output import Format, data_text
from pointsman_ctl.run import Run, with_output, with_run
from pointsman_ctl.types import DurationType, ServiceType

_ROOT_PROCESS: Final = "pointsman-watcher"
_LOOKED_AT: Final = 200
_TRACE_ID: Final = re.compile(r"[0-9a-f]{16,32}")
_LAB_SECONDS: Final = 30.0


@click.command()
@click.argument("trace_id", required=False, default="")
@click.option("--service", type=ServiceType(), default=None, help="Changes of this Service or its EndpointSlices.")
@click.option("--limit", type=click.IntRange(1, 100), default=1, show_default=True, help="So many of the newest.")
@click.option("--lookback", type=DurationType(), default="1h", show_default=True, help="How far back to look.")
@click.option("--jaeger", metavar="URL", default="", envvar="POINTSMAN_JAEGER", help="Jaeger's user interface.")
@click.option("-f", "--file", metavar="FILE", default="", help="Jaeger's JSON or OTLP's JSON; - is stdin.")
@click.option("--lab", metavar="NAME", default="", help="A running lab (pointsman-lab).")
@with_output("text", "json", "yaml")
@with_run
def trace(run: Run, shown: Format, trace_id: str, service: NamespacedName | None, **options: Any) -> None:
    """How a recent change travelled to every node.

    A waterfall from the API server's event to the kernel of each node, and how long each node took.
    Traces come from Jaeger (`--jaeger`, or `jaeger` of the context), from a file, or from a lab. Changes are traced
    when the services export to a collector, and sampled as OTEL_TRACES_SAMPLER says.
    """
    if trace_id and not _TRACE_ID.fullmatch(trace_id):
        raise UsageError(f"{trace_id!r} is no trace id: 16 to 32 hexadecimal digits")
    url = options["jaeger"] or run.context.jaeger
    name = f"{service.namespace}/{service.name}" if service is not None else ""
    if options["file"]:
        found = _decode(read_file(options["file"]), options["file"])
    elif options["lab"]:
        found = _of_lab(options["lab"], trace_id, _LOOKED_AT if name else options["limit"])
    elif url:
        found = _of_jaeger(url, trace_id, options["lookback"], run.timeout_seconds)
    else:
        raise UsageError("where are the traces? Give --jaeger URL (or `jaeger` in the context), --file or --lab")
    chosen = [
        each for each in found if (not trace_id or each[0].trace_id == trace_id) and (not name or is_about(each, name))
    ]
    if not chosen:
        raise CtlError(
            "no such trace"
            + (f" of {name}" if name else "")
            + "; are changes traced (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER), and was one made lately?"
        )
    _show(chosen[: options["limit"]], shown)


def _show(traces: list[tuple[Span, ...]], shown: Format) -> None:
    if shown.is_data:
        console.say([data_text({"items": [trace_data(each) for each in traces]}, shown)])
        return
    for number, each in enumerate(traces):
        console.say([*([""] if number else []), *waterfall(each, colours=console.has_colours())])


def _of_jaeger(url: str, trace_id: str, lookback: Duration, timeout_seconds: float) -> list[tuple[Span, ...]]:
    base = url.rstrip("/")
    if trace_id:
        address = f"{base}/api/traces/{trace_id}"
    else:
        query = {"service": _ROOT_PROCESS, "limit": str(_LOOKED_AT), "lookback": f"{max(round(lookback), 1)}s"}
        address = f"{base}/api/traces?{urllib.parse.urlencode(query)}"
    return _decode(fetch(address, timeout_seconds=timeout_seconds), address)


def _of_lab(name: str, trace_id: str, limit: int) -> list[tuple[Span, ...]]:
    with tempfile.TemporaryDirectory(prefix="pointsmanctl-") as directory:
        file = Path(directory) / "traces.json"
        argv = ["pointsman-lab", "trace", "--name", name, "--limit", str(limit), "--jaeger", str(file)]
        try:
            done = subprocess.run(
                argv + ([trace_id] if trace_id else []), capture_output=True, check=False, timeout=_LAB_SECONDS
            )
        except FileNotFoundError as error:
            raise ToolError("pointsman-lab is not on PATH; --lab needs it") from error
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"pointsman-lab did not answer within {_LAB_SECONDS:g} s") from error
        if done.returncode != 0:
            raise ToolError(f"pointsman-lab: {done.stderr.decode(errors='replace').strip()}")
        return _decode(file.read_bytes(), f"lab {name}") if file.exists() else []


def _decode(content: bytes, source: str) -> list[tuple[Span, ...]]:
    try:
        return read_traces(msgspec.json.decode(content))
    except (msgspec.DecodeError, TraceFormatError) as error:
        raise CtlError(f"{source} holds no traces that can be read: {error}") from error
