# SPDX-License-Identifier: Apache-2.0
"""An API server that answers one question, where the planners are, over TLS and to those it knows."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from support.certificates import Authority

NAME = "localhost"
TOKEN = "a-node-token"  # noqa: S105 - of a server that lives for one test


def slice_of(addresses: Sequence[str], **endpoint: Any) -> dict[str, Any]:
    """A slice of the planners' Service; `addresses` are `host:port` of one port."""
    ports = {int(each.rpartition(":")[2]) for each in addresses}
    return {
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each.rpartition(":")[0]], **endpoint} for each in addresses],
        "ports": [{"name": "grpc", "port": port} for port in ports] + [{"name": "metrics", "port": 9}],
    }


class SliceServer:
    """Answers with `slices`; remembers what it was asked."""

    def __init__(self, directory: Path) -> None:
        authority = Authority("api")
        files = authority.issue(directory, NAME)
        self.authority_file = Path(files.ca_file)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca_file)
        self._context.load_cert_chain(files.cert_file, files.key_file)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self.slices: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.is_dripping = False
        """Whether answers come byte by byte and do not end."""
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve on loopback."""
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context)
        await site.start()
        self.address = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            self.is_dripping = False
            await runner.cleanup()

    def kubeconfig(self, path: Path, **user: str) -> Path:
        """A kubeconfig for this server, with the token unless another user is given."""
        cluster = {
            "server": f"https://{self.address}",
            "certificate-authority": str(self.authority_file),
            "tls-server-name": NAME,
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {"token": TOKEN}}],
        }
        path.write_text(json.dumps(document))
        return path

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(str(request.rel_url))
        transport = request.transport
        has_certificate = transport is not None and bool(transport.get_extra_info("peercert"))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}" and not has_certificate:
            return web.Response(status=401, text="who are you?")
        if self.is_dripping:
            return await self._drip(request)
        return web.json_response({"kind": "EndpointSliceList", "items": self.slices})

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while self.is_dripping:
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response
