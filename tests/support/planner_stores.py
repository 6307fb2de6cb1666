# SPDX-License-Identifier: Apache-2.0
"""Stores for tests that hold for both implementations of the port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pointsman_chassis.metrics import Registry
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.connection import RedisSettings, parse_store_url
from pointsman_planner.store.port import Store
from pointsman_planner.store.redis_store import RedisStore
from support.redis_server import RedisServer


def redis_store(url: str, registry: Registry | None = None, **options: Any) -> RedisStore:
    """A store on a Redis; settings are options too, probes are quicker than an operator's."""
    settings = options.pop("settings", RedisSettings())
    prefix = options.pop("key_prefix", "test:")
    return RedisStore(
        address=parse_store_url(url),
        settings=settings,
        key_prefix=prefix,
        metrics=StoreMetrics(registry or Registry(process=False)),
        probe_seconds=0.1,
        **options,
    )


@asynccontextmanager
async def running(*parts: Any) -> AsyncIterator[None]:
    """Each part's `run` as a task; one that fails fails the test."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
        failed = [task for task in tasks if task.done()]
        for task in failed:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def store_on(server: RedisServer, registry: Registry | None = None, **options: Any) -> AsyncIterator[Store]:
    """A running store on this server."""
    store = redis_store(server.url, registry, **options)
    async with running(store):
        try:
            yield store
        finally:
            await store.close()
