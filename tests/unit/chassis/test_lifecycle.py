# SPDX-License-Identifier: Apache-2.0
"""How real processes end: by signal, by a wrong configuration, by a bug."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import asyncio, sys
from pointsman_chassis.errors import ConfigError, UnsupportedError
from pointsman_chassis.lifecycle import Stop, run, task_boundary
from pointsman_chassis.logs import configure_logging

configure_logging("sample")

async def waits(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopped by", stop.reason, flush=True)
    return 7

async def lingers(stop):
    print("ready", flush=True)
    await stop.wait()
    print("lingering", flush=True)
    await asyncio.Event().wait()

async def misconfigured(stop):
    raise ConfigError("nodeName: a value is required")

async def unsupported(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(task_boundary("probe", probe()))
        group.create_task(asyncio.Event().wait())

async def probe():
    raise UnsupportedError("this kernel has no nf_tables")

async def buggy(stop):
    async with asyncio.TaskGroup() as group:
        group.create_task(task_boundary("feed", feed()))

async def feed():
    raise KeyError("who")

async def loop(stop):
    print(type(asyncio.get_running_loop()).__module__)
    return 0

sys.exit(run(globals()[sys.argv[1]], use_uvloop=sys.argv[2:] != ["plain"]))
"""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(*arguments: str) -> tuple[int, str, str]:
    with started(*arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_main_to_wind_down(number: signal.Signals) -> None:
    with started("waits") as process:
        assert read_line(process) == "ready"
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert out == f"stopped by {number.name}\n"
    assert process.returncode == 7


def test_a_second_signal_is_obeyed_even_when_main_lingers() -> None:
    with started("lingers") as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "lingering"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT


def test_a_configuration_error_is_one_clear_message_and_status_2() -> None:
    assert ended("misconfigured") == (2, "", "error: nodeName: a value is required\n")


def test_an_unsupported_node_is_status_3_also_from_within_a_task() -> None:
    status, _, err = ended("unsupported")
    assert status == 3
    assert err.splitlines()[-1] == "error: this kernel has no nf_tables"


def test_a_bug_in_a_task_is_logged_with_the_tasks_name_and_ends_the_process() -> None:
    status, _, err = ended("buggy")
    assert status == 1
    assert '"task": "feed"' in err
    assert "KeyError: 'who'" in err


@pytest.mark.parametrize(("arguments", "module"), [((), "uvloop"), (("plain",), "asyncio.unix_events")])
def test_the_loop_is_uvloop_unless_told_otherwise(arguments: tuple[str, ...], module: str) -> None:
    assert ended("loop", *arguments)[1] == f"{module}\n"
