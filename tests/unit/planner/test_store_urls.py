# SPDX-License-Identifier: Apache-2.0
"""Store URLs: what each form means, what is refused, and that no password is ever repeated."""

import pytest

from pointsman_chassis.errors import ConfigError
from pointsman_planner.settings import PlannerSettings, shown_settings
from pointsman_planner.store.connection import (
    RedisSettings,
    StoreAddress,
    Topology,
    check_files,
    make_client,
    parse_store_url,
    shown_url,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", StoreAddress(topology=Topology.MEMORY)),
        ("memory://", StoreAddress(topology=Topology.MEMORY)),
        ("redis://r", StoreAddress(topology=Topology.SINGLE, hosts=(("r", 6379),))),
        (
            "redis://u:p%40ss@r:1/2",
            StoreAddress(topology=Topology.SINGLE, hosts=(("r", 1),), database=2, username="u", password="p@ss"),  # noqa: S106 - a test
        ),
        ("rediss://[::1]:7/0", StoreAddress(topology=Topology.SINGLE, hosts=(("::1", 7),), is_tls=True)),
        ("unix:///run/r.sock?db=3", StoreAddress(topology=Topology.SINGLE, path="/run/r.sock", database=3)),
        (
            "redis+sentinel://a,b:5/main/1",
            StoreAddress(topology=Topology.SENTINEL, hosts=(("a", 26379), ("b", 5)), name="main", database=1),
        ),
        (
            "rediss+sentinel://a/main",
            StoreAddress(topology=Topology.SENTINEL, hosts=(("a", 26379),), name="main", is_tls=True),
        ),
        ("redis+cluster://a,b:2", StoreAddress(topology=Topology.CLUSTER, hosts=(("a", 6379), ("b", 2)))),
        ("rediss+cluster://a", StoreAddress(topology=Topology.CLUSTER, hosts=(("a", 6379),), is_tls=True)),
    ],
)
def test_each_form(url: str, expected: StoreAddress) -> None:
    assert parse_store_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cret@r",
        "redis://:s3cret@",
        "redis://:s3cret@a,b",
        "redis://:s3cret@r/x",
        "redis://:s3cret@r:99999",
        "redis://:s3cret@r/1/2",
        "redis://:s3cret@r?x=1",
        "redis+sentinel://:s3cret@a",
        "redis+cluster://:s3cret@a/1",
        "redis+proxy://:s3cret@a",
        "unix://:s3cret@",
        "unix://:s3cret@/x?y=1",
        "redis://:s3cret@[::1",
        "redis://:s3cret@r/٣",
        "redis://:a/s3cret@r",
        "redis://:@r:s3cret",
        "redis://[s3cret",
    ],
)
def test_other_forms_are_refused_and_the_password_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="redisURL: ") as caught:
        parse_store_url(url)
    assert "s3cret" not in str(caught.value)
    assert "memory://" in str(caught.value)


def test_no_password_is_shown() -> None:
    urls = ("redis://u:s3cret@r/0", "redis://:a/s3cret@r", "redis+sentinel://:s3cret@a,b/main", "unix://:s3cret@/x")
    for url in urls:
        assert "s3cret" not in shown_url(url)
        assert "s3cret" not in str(shown_settings(PlannerSettings(redis_url=url)))
    assert "s3cret" not in repr(parse_store_url("redis://u:s3cret@r/0"))
    assert shown_url("redis://u:s3cret@r/0") == "redis://***@r/0"
    assert shown_url("redis://r/0") == "redis://r/0"


def test_files_that_are_not_there_are_said_at_the_start() -> None:
    with pytest.raises(ConfigError, match="/nowhere/password"):
        check_files(RedisSettings(password_file="/nowhere/password"))  # noqa: S106 - a path
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE"):
        check_files(RedisSettings(password_environment="NO_SUCH_VARIABLE"))  # noqa: S106 - a name
    check_files(RedisSettings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"password_file": "a", "password_environment": "b"},
        {"cert_file": "a"},
        {"command_timeout": 0.01},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"together|exclude|within"):
        RedisSettings(**wrong)


def test_certificates_are_of_no_use_without_tls() -> None:
    with pytest.raises(ConfigError, match="rediss"):
        make_client(parse_store_url("redis://r"), RedisSettings(ca_file="/ca"))


async def test_a_password_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "from-environment")
    settings = RedisSettings(username="u", password_environment="REDIS_PASSWORD")  # noqa: S106 - a name
    client = make_client(parse_store_url("redis://r"), settings)
    options = client.get_connection_kwargs()
    assert (options["username"], options["password"]) == ("u", "from-environment")
    await client.aclose()
