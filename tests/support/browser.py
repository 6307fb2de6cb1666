# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that a test drives through the DevTools protocol.

The machine's own browser (Debian: chromium-headless-shell, about 15 s to install), so there is no driver to keep in
step with it. It runs without its sandbox, because tests run as root: it is shown nothing but our own page.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

DEADLINE_SECONDS = 30.0
_LISTENING = re.compile(rb"DevTools listening on ws://[^:]*:([0-9]+)/")
_NAMES = ("chromium-headless-shell", "chromium")


def browser_path() -> str:
    """The browser. Raises where there is none: what it would show must not be taken for shown."""
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found is None:
        raise FileNotFoundError(f"none of {', '.join(_NAMES)} is installed: run scripts/setup.sh")
    return found


class Page:
    """One page; `problems` are its exceptions and console errors so far."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            waiting = self._answers.pop(said.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(said)
            method, params = said.get("method"), said.get("params", {})
            is_error = method == "Runtime.consoleAPICalled" and params["type"] == "error"
            if method == "Runtime.exceptionThrown" or is_error:
                self.problems.append(json.dumps(params))
            elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(DEADLINE_SECONDS):
            said = await answer
        assert "error" not in said, f"{method}: {said['error']}"
        result: dict[str, Any] = said["result"]
        return result

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        """Go somewhere."""
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)

    async def until(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
        while not await self.js(f"Boolean({condition})"):
            assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE_SECONDS} s: {condition}"
            await asyncio.sleep(0.02)

    async def key(self, key: str, code: int, *, text: str = "") -> None:
        """Press and release a key, named as in DOM events; `code` is its Windows virtual key code."""
        extra = {"text": text} if text else {}
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **extra)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def screenshot(self) -> bytes:
        """What the window shows now, as PNG."""
        shot = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])

    async def resize(self, width: int, height: int) -> None:
        """The window's size in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def close(self) -> None:
        """No more of it."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser with one empty page, and a profile that goes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = Path(profile, "log")
        with _written(log) as said:
            process = await asyncio.create_subprocess_exec(
                browser_path(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        try:
            async with _page(await _port(log)) as page:
                yield page
        finally:
            _kill(process)
            await process.wait()


@asynccontextmanager
async def _page(port: int) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = await answer.json(content_type=None)
        address = next(each["webSocketDebuggerUrl"] for each in targets if each["type"] == "page")
        patience = aiohttp.ClientWSTimeout(ws_close=0.2)
        async with session.ws_connect(address, max_msg_size=64 << 20, timeout=patience) as socket:
            page = Page(socket)
            try:
                yield page
            finally:
                await page.close()


async def _port(log: Path) -> int:
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while (found := _LISTENING.search(_read(log))) is None:
        assert asyncio.get_running_loop().time() < deadline, f"the browser did not start: {_read(log)!r}"
        await asyncio.sleep(0.02)
    return int(found[1])


def _written(path: Path) -> BinaryIO:
    return path.open("wb")


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _kill(process: asyncio.subprocess.Process) -> None:
    """It and the processes that it made: all are of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
