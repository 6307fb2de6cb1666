# SPDX-License-Identifier: Apache-2.0
"""The store on what operators run: a failover of Sentinel, a Cluster losing a server, TLS, an ACL user, a socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from pointsman_lab.supervise.redis import find_redis
from pointsman_planner.store.connection import RedisSettings
from pointsman_planner.store.port import Area, Outcome, OutcomeKind, Store, StoreUnavailableError, Write, list_area
from support.certificates import Authority
from support.plan_server import eventually
from support.planner_stores import redis_store, running
from support.redis_server import RedisServer, free_port

AREA = Area(name="things", records_max=100)
OTHER = Area(name="other", records_max=100)
ACL = (
    "+eval +evalsha +set +hget +hmget +hset +hdel +hlen +hscan +zadd +zrem +zrange +zrangebyscore "
    "+xadd +xread +xrevrange +type +del +time"
)
"""What the planner's user needs; deploy/base/redis/README.md says the same."""
CLUSTER_ACL = "+cluster|slots +cluster|shards +command"
"""And on a Cluster."""


async def put(store: Store, key: str, value: bytes) -> Outcome:
    return (await store.commit(AREA, [Write(key=key, value=value, lives_seconds=600)])).outcomes[0]


async def until(question: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not await question():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within 30 s: {what}")


async def takes_writes(store: Store) -> bool:
    try:
        return (await put(store, "probe", b"1")).kind in (OutcomeKind.WRITTEN, OutcomeKind.UNCHANGED)
    except StoreUnavailableError:
        return False


async def prove(store: Store) -> None:
    """Every method of the port works."""
    heads = await store.heads([AREA, OTHER])
    assert all(head.version for head in heads)
    end = await store.log_end()
    assert (await put(store, "a", b"1")).kind is OutcomeKind.WRITTEN
    (entry,) = await store.follow(end)
    assert entry.keys == ("a",)
    assert (await store.read(AREA, ["a"])).records["a"].value == b"1"
    assert set((await list_area(store, AREA)).records) == {"a"}


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[Store]:
    store = redis_store(url, **options)
    async with running(store):
        try:
            yield store
        finally:
            await store.close()


@asynccontextmanager
async def servers(*wanted: RedisServer) -> AsyncIterator[None]:
    try:
        for server in wanted:
            server.folder.mkdir(exist_ok=True)
            await server.start()
        yield
    finally:
        for server in wanted:
            server.stop()


async def test_a_failover_of_sentinel_is_followed(tmp_path: Path) -> None:
    master = RedisServer(tmp_path / "master")
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port))
    sentinel = RedisServer(tmp_path / "sentinel")
    sentinel.folder.mkdir()
    file = sentinel.folder / "sentinel.conf"
    file.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 400\nsentinel failover-timeout main 3000\n"
    )
    watched = RedisServer(sentinel.folder, port=sentinel.port)
    watched.command = (find_redis(), str(file), "--sentinel")
    async with servers(master, replica, watched):
        nobody = free_port()
        async with opened(f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{watched.port}/main/0") as store:
            await prove(store)
            await until(lambda: _is_replicated(master), "the replica has everything")
            await until(lambda: _knows_replica(watched), "the Sentinel knows the replica")
            master.stop()
            await until(lambda: takes_writes(store), "the replica was promoted, and is written to")
            assert (await store.read(AREA, ["a"])).records["a"].value == b"1"
            assert await replica.ask("ROLE") != b"slave"
        with pytest.raises(StoreUnavailableError):
            async with opened(f"redis+sentinel://127.0.0.1:{watched.port}/unheard-of") as store:
                await store.log_end()


async def _is_replicated(master: RedisServer) -> bool:
    return bool(await master.ask("WAIT", 1, 100) == 1)


async def _knows_replica(sentinel: RedisServer) -> bool:
    return bool(await sentinel.answered("SENTINEL", "REPLICAS", "main"))


async def test_a_cluster_keeps_everything_on_one_server_and_its_loss_is_noticed(tmp_path: Path) -> None:
    masters = [RedisServer(tmp_path / str(number)) for number in range(3)]
    for master in masters:
        options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "500")
        master.options = (*options, "--appendonly", "yes")
    async with servers(*masters):
        await _make_cluster(masters)
        hosts = ",".join(f"127.0.0.1:{master.port}" for master in masters)
        async with opened(f"redis+cluster://{hosts}") as store:
            await prove(store)
            await eventually(lambda: store.is_available, "the store is available")
            owner = masters[key_slot(b"{test}:log") * 3 // 16384]
            assert await owner.ask("DBSIZE") == 5
            assert [await each.ask("DBSIZE") for each in masters if each is not owner] == [0, 0]
            rules = f"on >s3cret ~{{test}}:* -@all {ACL} {CLUSTER_ACL}".split()
            for master in masters:
                await master.ask("ACL", "SETUSER", "pointsman", *rules)
            async with opened(f"redis+cluster://pointsman:s3cret@{hosts}") as guarded:
                assert set((await list_area(guarded, AREA)).records) == {"a"}
                await put(guarded, "a", b"1")
            owner.stop()
            await eventually(lambda: not store.is_available, "its loss is noticed")
            await owner.start()
            await until(lambda: takes_writes(store), "it is back")
            assert (await store.read(AREA, ["a"])).records["a"].value == b"1"
            await eventually(lambda: store.is_available, "the store is available again")


async def _make_cluster(masters: list[RedisServer]) -> None:
    first, *others = masters
    for number, master in enumerate(masters):
        start, end = (-(-16384 * share // 3) for share in (number, number + 1))
        await master.ask("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
    for number, master in enumerate(masters):
        await master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for master in others:
        bus = master.options[3]
        await first.ask("CLUSTER", "MEET", "127.0.0.1", master.port, bus)

    async def is_ok() -> bool:
        answers = [str(await master.ask("CLUSTER", "INFO")) for master in masters]
        return all("cluster_state:ok" in answer and "cluster_known_nodes:3" in answer for answer in answers)

    await until(is_ok, "the Cluster is one")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisSettings, Authority]]:
    """A Redis that speaks TLS only, to clients with a certificate, and knows one user."""
    authority = Authority("redis")
    server_files, client_files = (authority.issue(tmp_path, name) for name in ("localhost", "planner"))
    port = free_port()
    server = RedisServer(
        tmp_path, "--port", "0", "--tls-port", str(port), "--tls-cert-file", server_files.cert_file,
        "--tls-key-file", server_files.key_file, "--tls-ca-cert-file", server_files.ca_file,
        "--user", "default", "off", "--user", *f"pointsman on >s3cret ~{{test}}:* -@all {ACL}".split(), port=port,
    )  # fmt: skip
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    settings = RedisSettings(
        username="pointsman",
        password_file=str(password),
        ca_file=client_files.ca_file,
        cert_file=client_files.cert_file,
        key_file=client_files.key_file,
    )
    async with servers(server):
        yield server, settings, authority


async def test_tls_and_an_acl_user_with_nothing_but_what_is_needed(
    guarded: tuple[RedisServer, RedisSettings, Authority],
) -> None:
    server, settings, _ = guarded
    async with opened(f"rediss://localhost:{server.port}/0", settings=settings) as store:
        await prove(store)
        await eventually(lambda: store.is_available, "the store is available")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


async def test_a_wrong_password_is_said_without_saying_it_and_a_new_one_is_read(
    guarded: tuple[RedisServer, RedisSettings, Authority],
) -> None:
    server, settings, _ = guarded
    _write(settings.password_file, "wr0ng")
    async with opened(f"rediss://localhost:{server.port}/0", settings=settings) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.log_end()
        assert "password" in str(caught.value)
        assert "wr0ng" not in str(caught.value)
        _write(settings.password_file, "")
        with pytest.raises(StoreUnavailableError):
            await store.log_end()
        _write(settings.password_file, "s3cret")
        await eventually(lambda: store.is_available, "the new password is used")
        await prove(store)


async def test_a_server_of_another_authority_is_not_spoken_to_and_new_files_are_read(
    guarded: tuple[RedisServer, RedisSettings, Authority], tmp_path: Path
) -> None:
    server, settings, authority = guarded
    Authority("another").issue(tmp_path, "planner")
    async with opened(f"rediss://localhost:{server.port}/0", settings=settings) as store:
        with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.log_end()
        authority.issue(tmp_path, "planner")
        await eventually(lambda: store.is_available, "the new files are used")
        await prove(store)


async def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path, "--unixsocket", str(path))
    async with servers(server), opened(f"unix://{path}?db=3") as store:
        await eventually(lambda: store.is_available, "the socket is there")
        await prove(store)
        assert await server.ask("DBSIZE", db=3) > 0
