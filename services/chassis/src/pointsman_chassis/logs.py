# SPDX-License-Identifier: Apache-2.0
"""Logs: one JSON object per line on stderr, or a readable line for people.

Keys: ts, level, msg, logger, service, then the event's own. Get a logger where it is used with
`structlog.get_logger("name")`, so that nothing is bound before `configure_logging` ran. Records of libraries that use
the standard `logging` module take the same way out, from WARNING upwards.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pointsman_chassis.settings import Settings

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]

_LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class LogSettings(Settings, frozen=True, kw_only=True):
    """The `logging` section of every service's configuration."""

    level: LogLevel = "info"
    """Least severe level that is written."""
    format: LogFormat = "json"
    """`json` for collectors, `console` for people."""


def configure_logging(
    service: str,
    *,
    level: LogLevel = "info",
    format: LogFormat = "json",  # noqa: A002 - the word of the configuration file
    stream: TextIO | None = None,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Set up structlog and the standard logging module; `fields` (such as the node) are on every line."""
    output = stream if stream is not None else sys.stderr
    static = {"service": service, **(fields or {})}
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _add_fields(static),
    ]
    renderer = _renderers(format, colors=output.isatty())
    structlog.configure(
        processors=[*shared, _name_logger, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_NamedWriter(output),
        cache_logger_on_first_use=True,
    )
    _configure_standard_logging(output, shared, renderer, level)
    # gRPC's C core writes to stderr by itself and reads this at its first use; its INFO lines (GOAWAYs) are no JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if level == "debug" else "ERROR")


class _NamedWriter:
    """Logger factory that keeps the name given to `get_logger` for the `logger` key."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def __call__(self, *names: str) -> WrappedLogger:
        logger = structlog.WriteLogger(self._output)
        logger.name = names[0] if names else ""  # type: ignore[attr-defined] # read back by _name_logger
        return logger


def _name_logger(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    name = getattr(logger, "name", "")
    if name:
        event.setdefault("logger", name)
    return event


def _add_fields(static: Mapping[str, str]) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key, value in static.items():
            event.setdefault(key, value)
        return event

    return add


def _renderers(form: LogFormat, *, colors: bool) -> list[Processor]:
    if form == "console":
        return [structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="ts")]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("msg"),
        structlog.processors.JSONRenderer(default=_plain),
    ]


def _plain(value: Any) -> str:
    """A value that JSON does not know, as text."""
    return str(value)


def _configure_standard_logging(
    output: TextIO, shared: list[Processor], renderer: list[Processor], level: LogLevel
) -> None:
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
