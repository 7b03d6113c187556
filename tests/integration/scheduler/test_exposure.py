"""Limits per identity and address, TLS and proxies, at a real Scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
import ssl
import sys
from unittest.mock import ANY

import aiohttp
import pytest

from orchestrator import kvin
from orchestrator.errors import InvalidInput, NetworkFailure, OrchestratorError
from orchestrator.protocol.certificates import UntrustedCertificate
from orchestrator.protocol.client import DcpClient, fetch_config
from orchestrator.protocol.errors import ConnectionLost
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.exposure import tls_context, trusted_proxies
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker.scheduler_link.discovery import find
from tests.integration.scheduler.actors import deployer
from tests.parts.certificates import Certificate


@pytest.fixture
def plain(tmp_path: pathlib.Path) -> SchedulerSettings:
    return SchedulerSettings(port=0, state_dir=tmp_path / "scheduler", initial_credit=1000 * 10**18)


async def test_jobs_of_an_identity_are_limited(plain: SchedulerSettings) -> None:
    limited = plain.model_copy(update={"max_jobs_per_owner": 2})
    async with SchedulerApp(limited) as app, deployer(app.url) as owner, deployer(app.url) as other:
        jobs = [(await owner.submit())[0] for _ in range(2)]
        with pytest.raises(OrchestratorError, match="has 2 jobs that have not ended") as caught:
            await owner.submit()
        assert caught.value.code == "EBUSY"
        await other.submit()
        await owner.submit(job=jobs[0])  # the same again is no further job
        await owner.submit_service.request("cancelJob", {"job": jobs[0]})
        await owner.submit()


async def test_inputs_of_an_identity_are_limited(plain: SchedulerSettings) -> None:
    """Big values count though they are kept elsewhere; what belongs to ended jobs does not."""
    limited = plain.model_copy(update={"max_inputs_mib_per_owner": 1})
    async with SchedulerApp(limited) as app, deployer(app.url) as owner, deployer(app.url) as other:
        job = await owner.deploy()
        await owner.add(job, ["x" * 300_000, "y" * 300_000])
        for _ in range(2):
            with pytest.raises(
                OrchestratorError, match=r"with these \d+ that would be more than the 1048576"
            ) as caught:
                await owner.add(job, ["z" * 600_000])
            assert caught.value.code == "EBUSY"
        with pytest.raises(OrchestratorError, match="characters of code and inputs") as caught:
            await owner.submit(workFunctionURI="data:," + "x" * 600_000)
        await owner.add(job, ["small"])
        theirs = await other.deploy()
        assert (await other.add(theirs, ["z" * 600_000]))["success"]
        await owner.submit_service.request("cancelJob", {"job": job})
        again = await owner.deploy()
        assert (await owner.add(again, ["z" * 600_000]))["success"]


async def test_sessions_of_an_identity_are_limited(plain: SchedulerSettings) -> None:
    limited = plain.model_copy(update={"max_identity_sessions": 2})
    async with SchedulerApp(limited) as app, deployer(app.url) as owner, deployer(app.url) as other:
        await owner.submit()
        await owner.pheme.request("listJobs", {})
        with pytest.raises(OrchestratorError, match="has 2 sessions, as many as one identity may have"):
            await owner.results.request("closeJob", {"job": "x"})
        await other.submit()


async def test_requests_of_an_identity_are_limited(plain: SchedulerSettings) -> None:
    limited = plain.model_copy(update={"identity_requests_per_s": 0.2})  # two at once
    async with SchedulerApp(limited) as app, deployer(app.url) as owner, deployer(app.url) as other:
        await owner.submit()
        await owner.submit()
        with pytest.raises(OrchestratorError, match=r"sends more than 0\.2 requests a second") as caught:
            await owner.submit()
        assert caught.value.code == "EBUSY"
        await other.submit()


async def test_connections_of_an_address_are_limited(plain: SchedulerSettings) -> None:
    limited = plain.model_copy(update={"max_address_connections": 3, "trusted_proxies": ("127.0.0.1",)})
    async with SchedulerApp(limited) as app, aiohttp.ClientSession() as session:
        query = f"{app.url}pheme/dcp5/socketio/?EIO=4&transport=websocket"
        open_ones = [await session.ws_connect(query) for _ in range(3)]
        async with session.get(query) as answer:
            assert answer.status == 429
            assert "address 127.0.0.1 has 3 connections" in await answer.text()
            assert answer.headers["Retry-After"] == "5"
        # Another client behind the proxy that is trusted here.
        await (await session.ws_connect(query, headers={"X-Forwarded-For": "8.8.8.8"})).close()
        for one in open_ones:
            await one.close()


async def config_of(url: str, **headers: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{url}etc/dcp-config.kvin?ver=2.1.0",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        ) as answer,
    ):
        return str(kvin.parse(await answer.text())["scheduler"]["location"].href)


async def test_only_a_trusted_proxy_says_where_clients_reach_us(plain: SchedulerSettings) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "dcp.example"}
    async with SchedulerApp(plain) as app:
        assert await config_of(app.url, **said) == app.url
    trusting = plain.model_copy(update={"trusted_proxies": ("127.0.0.0/8",)})
    async with SchedulerApp(trusting) as app:
        assert await config_of(app.url, **said) == "https://dcp.example/"
        assert await config_of(app.url, X_Forwarded_Host="a b/../c") == app.url


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    made = Certificate.create(tmp_path_factory.mktemp("tls"))
    return made.certificate, made.key


def test_certificates_that_cannot_be_used(
    plain: SchedulerSettings, certificate: tuple[pathlib.Path, pathlib.Path]
) -> None:
    def problem(**fields: pathlib.Path) -> str:
        with pytest.raises(InvalidInput) as caught:
            tls_context(plain.model_copy(update=fields))
        return caught.value.message

    good, key = certificate
    assert tls_context(plain) is None
    assert "without tls_certificate" in problem(tls_key=key)
    assert f"there is no file {good}x" in problem(tls_certificate=pathlib.Path(f"{good}x"))
    assert "no PEM certificate and its key" in problem(tls_certificate=key)
    with pytest.raises(InvalidInput, match="trusted_proxies: 'proxy'"):
        trusted_proxies(plain.model_copy(update={"trusted_proxies": ("proxy",)}))


_ASK = """
import asyncio, sys
from orchestrator.protocol.client import DcpClient
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker.scheduler_link.discovery import find

async def main():
    async with DcpClient(PrivateKey.generate()) as client:
        print(await client.connect(sys.argv[1] + "pheme/").request("listJobs", {}))

asyncio.run(main())
"""


async def test_https_with_the_client(plain: SchedulerSettings, certificate: tuple[pathlib.Path, pathlib.Path]) -> None:
    served = plain.model_copy(update={"tls_certificate": certificate[0], "tls_key": certificate[1]})

    async def ask(url: str, **env: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _ASK, url, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async with SchedulerApp(served) as app:
        assert app.url.startswith("https://127.0.0.1:")
        assert await ask(app.url, SSL_CERT_FILE=str(certificate[0])) == (0, ANY)
        # Without it: one error, at once, that says what to do.
        status, said = await ask(app.url)
        assert status != 0
        shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate[0].read_text())).hexdigest()
        expected = (
            f"the certificate of 127.0.0.1 port {app.server.port} (SHA-256 {shown}) is not trusted: self-signed "
            "certificate. If it is the right one, name a PEM file"
        )
        assert expected in said
        assert "$SSL_CERT_FILE" in said
        with pytest.raises(UntrustedCertificate, match=shown) as caught:
            await fetch_config(app.url)
        assert caught.value.code == "ECERT"
        with pytest.raises(UntrustedCertificate):  # and a worker does not wait for ever
            await find(app.url, asyncio.Event())
        async with DcpClient(PrivateKey.generate()) as client:
            connection = client.connect(f"{app.url}pheme/")
            for _ in range(2):
                with pytest.raises(ConnectionLost, match="is not trusted") as lost:
                    await connection.request("listJobs", {})
                assert lost.value.code == "ECERT"


async def test_who_answers_no_tls_is_not_taken_for_one_without_a_good_certificate(plain: SchedulerSettings) -> None:
    async with SchedulerApp(plain) as app:
        with pytest.raises(NetworkFailure, match="cannot be reached"):
            await fetch_config(app.url.replace("http:", "https:"))
