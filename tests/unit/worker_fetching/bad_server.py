"""A web server with every bad habit that a server can have."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import pathlib
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator

from aiohttp import web

_OPENSSL = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"


@functools.cache
def certificate() -> pathlib.Path:
    """Key and certificate of 127.0.0.1, made anew and signed by nobody else."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="dcp-tls-")) / "server.pem"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path.with_suffix(".crt")]
    subprocess.run([*_OPENSSL.split(), *names], check=True, capture_output=True)
    with path.open("a") as file:
        file.write(path.with_suffix(".crt").read_text())
    return path


class Site:
    """What was asked of it, and what was posted. Pages that wait do so until `gate` is set."""

    def __init__(self) -> None:
        self.origin = ""
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.posted: dict[str, str] = {}
        self.bodies: list[str] = []
        self.statuses: list[int] = []
        """Answers of `/moody`, one after the other, then 200."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        match request.path:
            case "/moved":
                raise _moved(request)
            case "/loop":
                raise web.HTTPFound("/loop")
            case "/slow":
                await self.gate.wait()
                return web.Response(text="late")
            case "/store":
                self.posted = dict(await request.post())  # type: ignore[arg-type]
                return web.Response(text="https://kept.example/7", status=201)
            case "/echo":
                self.bodies.append(await request.text())
                return web.Response(text="seen", headers={"Set-Cookie": "a=b", "X-Theirs": "c"}, status=418)
            case "/moody":
                status = self.statuses.pop(0) if self.statuses else 200
                return web.Response(text="now", status=status, headers={"Retry-After": "30"} if status == 503 else {})
            case "/ok.js":
                return web.Response(body="n => '½'".encode(), content_type="text/javascript", charset="utf-8")
            case "/code.txt":
                return web.Response(text="n => n")
            case "/closes":
                response = web.Response(text="bye")
                response.force_close()
                return response
            case "/never":
                return web.Response(text="n => n", headers={"Cache-Control": "no-store"})
            case "/value.json":
                return web.json_response({"a": [1, "%", "½"]})
            case "/bad.json":
                return web.Response(text="{", content_type="application/json")
            case "/odd-type":
                return web.Response(body=b"x", headers={"Content-Type": "a,b/c;d"})
            case "/latin":
                return web.Response(body=b"\xbd", content_type="text/plain", charset="latin-1")
            case "/lies":
                return web.Response(body=b"\xff\xff", content_type="text/plain", charset="utf-8")
            case "/charset":
                return web.Response(body=b"abc", headers={"Content-Type": "text/plain; charset=punycode"})
            case "/bytes":
                return web.Response(body=b"\x00\xff", content_type="image/png")
            case "/big":
                return web.Response(body=b"x" * 1001)
            case "/zipped":
                return _encoded(gzip.compress(b"zipped"), "gzip")
            case "/bomb":
                return _encoded(gzip.compress(b"\0" * 50_000_000), "gzip")
            case "/brotli":
                return _encoded(b"\x0b\x02\x80abcde\x03", "br")
        return await self._badly(request)

    async def _badly(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/big-chunks":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(11):
                    await response.write(b"x" * 100)
                return response
            case "/drip":
                response = web.StreamResponse()
                await response.prepare(request)
                while not self.gate.is_set():
                    await response.write(b"x")
                    await asyncio.sleep(0.005)
                return response
            case "/stalled":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"x" * 200)
                await self.gate.wait()
                return response
            case "/truncated":
                return await self._cut(request, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
            case "/bad-chunks":
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                return await self._cut(request, head, b"5\r\nabcde\r\nzz\r\n")
            case "/cut-chunks":
                return await self._cut(request, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
            case "/cut-zip":
                body = gzip.compress(bytes(range(250)))[:60]
                head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
                return await self._cut(request, head.encode() + body)
            case "/no-http":
                return await self._cut(request, b"220 mail.example ESMTP\r\n")
            case "/many-headers":
                return await self._cut(request, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n")
            case "/long-header":
                return await self._cut(request, b"HTTP/1.1 200 OK\r\nA: " + b"b" * 20_000 + b"\r\n\r\n")
            case "/raw-header":
                return await self._cut(request, b"HTTP/1.1 200 \xff\r\nX-Raw: \xff\xfe\r\nContent-Length: 0\r\n\r\n")
            case "/raw-status":
                return await self._cut(request, b"HTTP/1.1 500 \xff\xfe\x01\r\nContent-Length: 0\r\n\r\n")
            case "/raw-type":
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=\xff\r\nContent-Length: 1\r\n\r\n"
                return await self._cut(request, head + b"x")
            case "/raw-encoding":
                head = b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\r\nContent-Length: 1\r\n\r\n"
                return await self._cut(request, head + b"x")
            case "/raw-redirect":
                return await self._cut(request, b"HTTP/1.1 302 \xff\r\nLocation: http://\xff/\xfe\r\n\r\n")
            case "/hangs-up":
                return await self._cut(request, b"")
        raise web.HTTPNotFound

    async def _cut(self, request: web.Request, *answer: bytes) -> web.StreamResponse:
        """Write these bytes, in as many pieces, and hang up."""
        transport = request.transport
        assert transport is not None
        for piece in answer:
            transport.write(piece)
            await asyncio.sleep(0.01)
        transport.close()
        return web.Response()


def _moved(request: web.Request) -> web.HTTPException:
    kinds = {"301": web.HTTPMovedPermanently, "302": web.HTTPFound, "303": web.HTTPSeeOther,
             "307": web.HTTPTemporaryRedirect, "308": web.HTTPPermanentRedirect}  # fmt: skip
    moved = kinds[request.query.get("status", "302")]("/")
    moved.headers["Location"] = request.query["to"]
    return moved


def _encoded(body: bytes, encoding: str) -> web.Response:
    return web.Response(body=body, headers={"Content-Encoding": encoding, "Content-Type": "text/plain"})


@contextlib.asynccontextmanager
async def serving(ports: int = 1, *, secure: int = 0) -> AsyncIterator[tuple[Site, list[str]]]:
    """The server, and as many origins that lead to it, the last ones by https (with `certificate`)."""
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        for _ in range(ports):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        origins = [f"http://127.0.0.1:{address[1]}" for address in runner.addresses]
        for _ in range(secure):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate())
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        origins += [f"https://127.0.0.1:{address[1]}" for address in runner.addresses[ports:]]
        site.origin = origins[0]
        yield site, origins
    finally:
        site.gate.set()
        await runner.cleanup()
