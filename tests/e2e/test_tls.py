"""https with the unmodified official client: straight to a Scheduler, and through nginx in front of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from tests.e2e import harness
from tests.e2e.harness import ClientRun
from tests.parts.certificates import Certificate

pytestmark = pytest.mark.npm

Run = Callable[..., Awaitable[ClientRun]]

_WORKER = """
import asyncio, sys
from tests.integration.scheduler.actors import serving

async def main():
    async with serving(sys.argv[1], lambda datum, _: datum * 10):
        print("working", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
_PROGRAM = """
    const job = compute.for([1, 2, 3], (x) => x);
    job.on('accepted', () => say('location', String(require('dcp/dcp-config').scheduler.services.jobSubmit.location)));
    say('results', Array.from(await job.exec()));
"""
_NGINX = """
daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 200; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 8m;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass {scheduler};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_read_timeout 120s;
            proxy_buffering off;
        }}
    }}
}}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.create(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def run(wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, certificate: Certificate) -> Run:
    async def run_client(scheduler: str, *, trusts: bool = True) -> ClientRun:
        env = {"NODE_EXTRA_CA_CERTS": str(certificate.certificate)} if trusts else {}
        async with harness.client(
            _PROGRAM, scheduler=scheduler, wallet=wallet, node=node, npm_modules=npm_modules, extra_env=env
        ) as client:
            return await client.finish(within=60)

    return run_client


@contextlib.asynccontextmanager
async def scheduler(folder: pathlib.Path, *flags: str) -> AsyncIterator[str]:
    command = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(folder / "scheduler"), "--initial-credit", "1000", *flags,
        log=folder / "scheduler.log",
    )  # fmt: skip
    try:
        yield (await command.wait_for_line("ready ")).removeprefix("ready ")
    finally:
        await command.stop()


@contextlib.asynccontextmanager
async def worker(url: str, **env: str) -> AsyncIterator[None]:
    """A worker of our client that multiplies by ten."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WORKER, url, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"working\n"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def nginx(folder: pathlib.Path, target: str, certificate: Certificate) -> AsyncIterator[str]:
    """The URL of an nginx that ends TLS."""
    cached = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    program = shutil.which("nginx") or str(cached / "dcp-orchestrator/nginx/usr/sbin/nginx")
    if not pathlib.Path(program).is_file():
        pytest.fail("nginx is not there: run scripts/setup.sh proxy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            folder=folder, port=port, certificate=certificate.certificate, key=certificate.key,
            scheduler=target.rstrip("/"),
        )
    )  # fmt: skip
    with (folder / "nginx.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, "-c", str(config), "-p", str(folder), stderr=log)
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, (folder / "nginx.log").read_text()
                await asyncio.sleep(0.02)
        yield f"https://localhost:{port}/"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def test_the_official_client_over_https(tmp_path: pathlib.Path, run: Run, certificate: Certificate) -> None:
    tls = ("--tls-certificate", str(certificate.certificate), "--tls-key", str(certificate.key))
    async with (
        scheduler(tmp_path, *tls) as url,
        worker(url, SSL_CERT_FILE=str(certificate.certificate)),
    ):
        assert url.startswith("https://")
        outcome = (await run(url)).ok()
        assert outcome.one("results") == [10, 20, 30]
        assert outcome.one("location") == f"{url}jobSubmit/"
        refused = await run(url, trusts=False)
        assert refused.status != 0
        assert refused.all("results") == []
        assert "SELF_SIGNED_CERT" in f"{refused.said}{refused.stderr}"


async def test_the_official_client_through_nginx(tmp_path: pathlib.Path, run: Run, certificate: Certificate) -> None:
    """nginx speaks https with the client and http with the Scheduler, which believes it whom it speaks for."""
    flags = ("--trusted-proxy", "127.0.0.1", "--max-address-connections", "12")
    async with (
        scheduler(tmp_path, *flags) as plain,
        nginx(tmp_path, plain, certificate) as url,
        worker(plain),
    ):
        outcome = (await run(url)).ok()
        assert outcome.one("results") == [10, 20, 30]
        assert outcome.one("location") == f"{url}jobSubmit/"
        # Limits are those of the client, whatever it says of itself, and not of the proxy.
        query = f"{url}pheme/dcp5/socketio/?EIO=4&transport=websocket"
        async with contextlib.AsyncExitStack() as stack:
            crowd, other = [
                await stack.enter_async_context(
                    aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0, local_addr=(address, 0)))
                )
                for address in ("127.0.0.5", "127.0.0.6")
            ]
            for number in range(12):
                lie = {"X-Forwarded-For": f"9.9.9.{number}"}
                await stack.enter_async_context(crowd.ws_connect(query, headers=lie))
            async with crowd.get(query, headers={"X-Forwarded-For": "9.9.9.99"}) as answer:
                assert answer.status == 429
                assert "address 127.0.0.5 has 12 connections" in await answer.text()
            await stack.enter_async_context(other.ws_connect(query))
