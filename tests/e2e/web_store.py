"""A web server where jobs find their data and leave their results."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator
from typing import Self

from aiohttp import web


class WebStore:
    """At two origins, `files` and `service`, which answer alike. It keeps what it is asked and sent."""

    def __init__(self) -> None:
        self.posted: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.files = self.service = ""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            for _ in range(2):
                await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.files, self.service = (f"http://127.0.0.1:{address[1]}" for address in runner.addresses)
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.host} {request.path}")
        match request.path.split("/")[1:]:
            case ["work.js"]:
                return web.Response(text="(x, y) => { progress(); return [x, y]; }", content_type="text/javascript")
            case ["data", name]:
                return web.json_response({"name": name})
            case ["moved", "1"]:
                raise web.HTTPFound(f"{self.service}/data/1")
            case ["moved", "2"]:
                raise web.HTTPFound("http://169.254.169.254/latest/meta-data/")
            case ["bad", "1"]:
                return web.Response(text="{", content_type="application/json")
            case ["question"]:
                return web.json_response({"asked": await request.text()})
            case ["results", name]:
                form = urllib.parse.parse_qs(await request.text())
                self.posted[name] = {field: values[0] for field, values in form.items()}
                return web.json_response({"stored": name}, status=201)
        raise web.HTTPNotFound
