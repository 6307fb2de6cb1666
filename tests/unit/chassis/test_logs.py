# SPDX-License-Identifier: Apache-2.0
"""Log lines are one JSON object each, whatever is logged and whoever logs it."""

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pointsman_chassis.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_agreed_keys(stream: io.StringIO) -> None:
    configure_logging("enforcer", stream=stream, fields={"node": "n1"})
    structlog.get_logger("feed").info("connected", address="[::1]:1")
    [line] = lines(stream)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "msg": "connected",
        "logger": "feed",
        "service": "enforcer",
        "node": "n1",
        "address": "[::1]:1",
    }


def test_hostile_text_stays_on_one_line(stream: io.StringIO) -> None:
    configure_logging("watcher", stream=stream)
    structlog.get_logger().warning("bad object", name='x\n{"level":"info"}\x1b[31m', raw=b"\xff\x00")
    assert len(lines(stream)) == 1


def test_an_exception_carries_its_traceback(stream: io.StringIO) -> None:
    configure_logging("watcher", stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("failed")
    [line] = lines(stream)
    assert line["level"] == "error"
    assert "ValueError: why" in line["exception"]


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    configure_logging("watcher", level="warning", stream=stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["msg"] for line in lines(stream)] == ["loud"]


def test_libraries_that_use_the_standard_module_take_the_same_way_out(stream: io.StringIO) -> None:
    configure_logging("watcher", level="debug", stream=stream)
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").warning("%s failed", "poll")
    [line] = lines(stream)
    assert (line["msg"], line["logger"], line["level"]) == ("poll failed", "grpc", "warning")


def test_the_chatter_of_grpcs_core_is_off_unless_asked_for(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    configure_logging("watcher", stream=stream)
    assert os.environ["GRPC_VERBOSITY"] == "ERROR"
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    configure_logging("watcher", stream=stream)
    assert os.environ["GRPC_VERBOSITY"] == "DEBUG"


def test_the_console_form_is_for_people(stream: io.StringIO) -> None:
    configure_logging("watcher", format="console", stream=stream)
    structlog.get_logger("feed").info("connected", port=1)
    assert "connected" in stream.getvalue()
    assert "port=1" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
