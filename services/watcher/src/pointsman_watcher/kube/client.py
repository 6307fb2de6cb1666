# SPDX-License-Identifier: Apache-2.0
"""Raw bytes from the API server: GET for pages, GET with a stream for watches. It can send no other verb."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlencode

import aiohttp

from pointsman_chassis.lifecycle import describe
from pointsman_watcher.core.decode import decode_status
from pointsman_watcher.core.lines import LineSplitter
from pointsman_watcher.kube.config import Access
from pointsman_watcher.kube.errors import PageTooLargeError, RefusedError, StalledError, UnansweredError
from pointsman_watcher.settings import KubernetesSettings

_ERROR_BODY_BYTES_MAX: Final = 64 << 10
_RETRY_AFTER_SECONDS_MAX: Final = 300.0

Parameters = Sequence[tuple[str, str]]


class KubeClient:
    """Requests with the present credentials."""

    def __init__(self, access: Access, settings: KubernetesSettings) -> None:
        self.access = access
        self._settings = settings

    async def read_page(self, path: str, parameters: Parameters) -> bytes:
        """The body of a list.

        Raises:
            RefusedError, UnansweredError, PageTooLargeError
        """
        async with self._get(path, parameters) as response:
            limit = self._settings.page_bytes_max
            try:
                body = await self._read(response, limit)
            except TimeoutError as error:
                raise UnansweredError(f"the list stopped in the middle for {self._settings.stall_timeout}") from error
            if len(body) > limit:
                raise PageTooLargeError(f"the page is larger than {limit} bytes")
            return body

    @asynccontextmanager
    async def open_watch(self, path: str, parameters: Parameters) -> "AsyncIterator[WatchStream]":
        """A watch that has begun.

        Raises:
            RefusedError, UnansweredError
        """
        async with self._get(path, parameters) as response:
            splitter = LineSplitter(line_bytes_max=self._settings.watch_line_bytes_max)
            yield WatchStream(response, splitter, stall_seconds=self._settings.stall_timeout)

    @asynccontextmanager
    async def _get(self, path: str, parameters: Parameters) -> AsyncIterator[aiohttp.ClientResponse]:
        transport, base, headers = await self.access.acquire()
        response: aiohttp.ClientResponse | None = None
        try:
            url = f"{base}{path}?{urlencode(parameters)}"
            timeout = aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout)
            try:
                async with asyncio.timeout(self._settings.stall_timeout):
                    answer = await transport.request("GET", url, headers=headers, _request_timeout=timeout)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise UnansweredError(f"{base}: {describe(error)}") from error
            response = answer.response
            if response.status != 200:
                raise await self._refusal(response)
            yield response
        finally:
            if response is not None:
                response.close()
            await transport.release()

    async def _refusal(self, response: aiohttp.ClientResponse) -> RefusedError:
        try:
            status = decode_status(await self._read(response, _ERROR_BODY_BYTES_MAX))
            message = status.message or status.reason
        except (UnansweredError, TimeoutError):
            message = ""
        return RefusedError(response.status, message, _retry_after(response.headers.get("Retry-After", "")))

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The body, or a little more than `limit` bytes of it."""
        chunks: list[bytes] = []
        size = 0
        try:
            while size <= limit:
                async with asyncio.timeout(self._settings.stall_timeout):
                    chunk = await response.content.readany()
                if not chunk:
                    break
                chunks.append(chunk)
                size += len(chunk)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise UnansweredError(f"the answer broke off: {describe(error)}") from error
        return b"".join(chunks)


class WatchStream:
    """The lines of one watch as they come."""

    def __init__(self, response: aiohttp.ClientResponse, splitter: LineSplitter, *, stall_seconds: float) -> None:
        self._response = response
        self._splitter = splitter
        self._stall_seconds = stall_seconds

    @property
    def skipped_count(self) -> int:
        """Lines that were too long."""
        return self._splitter.skipped_count

    async def read_lines(self) -> list[bytes] | None:
        """All lines that are there, at least some bytes having come; None once the server ended the watch in order.

        Raises:
            StalledError: nothing came for too long.
            UnansweredError: the connection broke, or ended within a line.
        """
        try:
            async with asyncio.timeout(self._stall_seconds):
                chunk = await self._response.content.readany()
        except TimeoutError as error:
            raise StalledError(f"nothing came for {self._stall_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnansweredError(f"the watch broke off: {describe(error)}") from error
        if chunk:
            return self._splitter.feed(chunk)
        if self._splitter.is_mid_line:
            raise UnansweredError("the watch ended in the middle of a line")
        return None


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header; None for an absent one or an HTTP date."""
    return min(float(text), _RETRY_AFTER_SECONDS_MAX) if text.isascii() and text.isdigit() else None
