# SPDX-License-Identifier: Apache-2.0
"""Plaintext is written down and stays within the machine: each process refuses to start otherwise, and says why."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from pointsman_chassis.channel import open_channel
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity, is_local
from pointsman_planner.store.connection import RedisSettings, check_plaintext, parse_store_url

PLAIN = TransportSecurity(insecure=True)
BASE = {"apiVersion": "config.pointsman.io/v1alpha1"}
INSECURE = {"security": {"insecure": True}}


@pytest.mark.parametrize(
    ("service", "document", "address"),
    [
        ("watcher", {"kind": "WatcherConfiguration", "listenAddress": "0.0.0.0:7443"}, "0.0.0.0:7443"),
        ("planner", {"kind": "PlannerConfiguration", "listenAddress": "[::]:7402"}, "[::]:7402"),
        ("planner", {"kind": "PlannerConfiguration", "watcherAddresses": ["10.0.0.1:7401"]}, "10.0.0.1:7401"),
        ("enforcer", {"kind": "EnforcerConfiguration", "plannerAddresses": ["10.0.0.1:7402"]}, "10.0.0.1:7402"),
        ("enforcer", {"kind": "EnforcerConfiguration", "plannerAddresses": ["dns:planner:7402"]}, "dns:planner:7402"),
    ],
)
async def test_plaintext_off_loopback_ends_the_process_with_the_reason(
    tmp_path: Path, service: str, document: dict[str, object], address: str
) -> None:
    kubeconfig = {"kubernetes": {"kubeconfig": str(tmp_path / "none")}} if service == "watcher" else {}
    (tmp_path / "config.yaml").write_text(json.dumps({**BASE, **INSECURE, **kubeconfig, **document}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"pointsman_{service}", "--config", str(tmp_path / "config.yaml"),
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    said = (output + errors).decode()
    assert process.returncode == 2
    assert address in said
    assert "loopback" in said


async def test_a_channel_to_another_machine_is_refused_in_plaintext() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        open_channel("192.0.2.1:7402", security=PLAIN)


async def test_callers_with_tokens_are_not_served_in_plaintext() -> None:
    with pytest.raises(ConfigError, match="tokens need TLS"):
        GrpcServer(address="127.0.0.1:0", security=PLAIN, token_address="127.0.0.1:0")  # noqa: S106 - no password


def test_a_token_is_never_sent_in_plaintext() -> None:
    with pytest.raises(ValueError, match="insecure: true excludes"):
        TransportSecurity(insecure=True, token_file="/token")  # noqa: S106 - a path


@pytest.mark.parametrize(
    ("url", "settings", "is_taken"),
    [
        ("redis://127.0.0.1:1/0", RedisSettings(), True),
        ("redis://[::1]:1/0", RedisSettings(), True),
        ("unix:///run/redis.sock?db=0", RedisSettings(), True),
        ("rediss://redis:1/0", RedisSettings(), True),
        ("redis://redis:1/0", RedisSettings(insecure=True), True),
        ("redis://redis:1/0", RedisSettings(), False),
        ("redis+sentinel://127.0.0.1:1,10.0.0.1:1/main/0", RedisSettings(), False),
        ("redis+cluster://10.0.0.1:1", RedisSettings(), False),
    ],
)
def test_redis_off_loopback_in_plaintext_is_refused_unless_written_down(
    url: str, settings: RedisSettings, is_taken: bool
) -> None:
    address = parse_store_url(url)
    if is_taken:
        check_plaintext(address, settings)
        return
    with pytest.raises(ConfigError, match="rediss://"):
        check_plaintext(address, settings)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("dns:///localhost:1", True),
        ("unix:/run/x", True),
        ("unix-abstract:x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("localhost.example.com:1", False),
        ("127.0.0.1.example.com:1", False),
        ("ipv4:10.0.0.1:1", False),
        (":1", False),
        ("", False),
    ],
)
def test_what_is_local(address: str, expected: bool) -> None:
    assert is_local(address) is expected
