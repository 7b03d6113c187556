"""Bans reach every process and the operator, outlive a process, and can be lifted."""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from orchestrator.cli.bans import command
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.guard import Banned
from orchestrator.scheduler import shared_bans
from orchestrator.scheduler.app import KEYSTORE, SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.flood.talkers import ATTACKER, Peer, bound_session
from tests.integration.scheduler.actors import until


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"address_offences_per_s": 0.1, "identity_offences_per_s": 0.05})


@pytest.fixture
async def bad(app: SchedulerApp) -> AsyncIterator[aiohttp.ClientSession]:
    async with bound_session(ATTACKER) as http:
        yield http


async def offend_until_banned(app: SchedulerApp, http: aiohttp.ClientSession) -> None:
    for _ in range(20):
        try:
            async with Peer.open(http, app.url) as peer:
                await peer.send('{"owner":"0x1"}')
                await peer.message()
        except ConnectionResetError:
            continue
        except aiohttp.WSServerHandshakeError as error:
            assert error.status == 429
            return
    raise AssertionError("nobody was banned")


async def status(app: SchedulerApp, http: aiohttp.ClientSession) -> int:
    async with http.get(f"{app.url}etc/dcp-config.kvin?ver=2.1.0") as answer:
        return answer.status


async def bans(settings: SchedulerSettings, *words: str) -> Any:
    """What `scheduler bans` answers. The command runs a loop of its own."""

    def work() -> Any:
        place = ["--state", str(settings.state_dir)]
        if settings.database_url is not None:
            place += ["--database", settings.database_url]
        return CliRunner().invoke(command, [*words, *place, "--output", "json"])

    result = await asyncio.to_thread(work)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


async def test_the_operator_sees_a_ban_and_lifts_it(
    app: SchedulerApp, settings: SchedulerSettings, bad: aiohttp.ClientSession
) -> None:
    assert await bans(settings, "list") == []
    await offend_until_banned(app, bad)
    for _ in range(100):
        if found := await bans(settings, "list"):
            break
    [ban] = found
    assert (ban["subject"], ban["kind"]) == (ATTACKER, "address")
    assert ban["reason"].startswith("too many offences, the last: ")
    assert 0 < ban["left_s"] <= settings.address_ban_s
    assert await bans(settings, "lift", ATTACKER, "192.0.2.1") == {"lifted": [ATTACKER], "not_banned": ["192.0.2.1"]}
    await until(lambda: not len(app.server.guard.bans))
    assert await status(app, bad) == 200
    assert await bans(settings, "list") == []


async def test_a_banned_identity_loses_its_sessions_and_opens_none(
    app: SchedulerApp, settings: SchedulerSettings
) -> None:
    key = PrivateKey.generate()
    async with DcpClient(key) as client, DcpClient(PrivateKey.generate()) as other:
        await client.connect(f"{app.url}pheme/").request("listJobs", {})
        await other.connect(f"{app.url}pheme/").request("listJobs", {})
        await bans(settings, "add", key.address.lower(), "--hours", "1", "--reason", "for a test")
        await until(lambda: [one.peer for one in app.server.connections] == [other.identity.address])
        async with DcpClient(key) as again:
            with pytest.raises(OrchestratorError, match=rf"identity {key.address} is banned \(for a test\)"):
                await again.connect(f"{app.url}pheme/").request("listJobs", {})
        await bans(settings, "lift", "--all")
        await until(lambda: not len(app.server.guard.bans))
        async with DcpClient(key) as again:
            await again.connect(f"{app.url}pheme/").request("listJobs", {})


async def test_the_operator_sees_why_an_identity_is_banned(app: SchedulerApp, settings: SchedulerSettings) -> None:
    key = PrivateKey.generate()
    async with bound_session(ATTACKER) as http, DcpClient(PrivateKey.generate()) as other:
        for _ in range(3):
            async with Peer.open(http, app.url, key=key) as peer:
                await peer.establish()
                await peer.ask("listJobs")
                await peer.send(peer.requests("connect"))
                with pytest.raises(ConnectionResetError):
                    await peer.message()
        for _ in range(100):
            if found := await bans(settings, "list"):
                break
        [ban] = found
        assert (ban["subject"], ban["kind"]) == (key.address, "identity")
        assert ban["reason"] == "too many offences, the last: unexpected request operation 'connect'"
        assert 0 < ban["left_s"] <= settings.identity_ban_s
        await other.connect(f"{app.url}pheme/").request("listJobs", {})
        assert await bans(settings, "lift", key.address) == {"lifted": [key.address], "not_banned": []}
        await until(lambda: not len(app.server.guard.bans))
        async with DcpClient(key) as again:
            await again.connect(f"{app.url}pheme/").request("listJobs", {})


async def test_a_ban_outlives_the_process(settings: SchedulerSettings) -> None:
    async with SchedulerApp(settings):
        pass
    await bans(settings, "add", ATTACKER)
    async with SchedulerApp(settings) as app, bound_session(ATTACKER) as http:
        await until(lambda: len(app.server.guard.bans) == 1)
        assert await status(app, http) == 429


async def test_words_that_name_nobody(tmp_path: pathlib.Path) -> None:
    for words in (["lift", "somebody"], ["add", "0x12"], ["add", "10.0.0.0/8x"], ["list"]):
        result = await asyncio.to_thread(CliRunner().invoke, command, [*words, "--state", str(tmp_path)])
        assert isinstance(result.exception, OrchestratorError), words
    assert (await asyncio.to_thread(CliRunner().invoke, command, ["lift"])).exit_code == 2
    assert shared_bans.subject_of("2001:db8::1") == shared_bans.subject_of("2001:db8::/64") == "2001:db8::/64"


class TestTwoProcesses:
    @pytest.fixture(params=["postgres"])
    def database_url(self, request: pytest.FixtureRequest, postgres_url: str) -> str:
        return postgres_url

    async def test_who_is_banned_at_one_is_banned_at_the_other(
        self, app: SchedulerApp, settings: SchedulerSettings, bad: aiohttp.ClientSession
    ) -> None:
        folder = settings.state_dir.parent / "second"
        folder.mkdir()
        shutil.copy(settings.state_dir / KEYSTORE, folder)
        async with SchedulerApp(settings.model_copy(update={"state_dir": folder})) as second:
            assert await status(second, bad) == 200
            # Its stranger there goes, its session stays.
            async with Peer.open(bad, second.url) as session, Peer.open(bad, second.url) as stranger:
                await session.establish()
                await offend_until_banned(app, bad)
                with pytest.raises(ConnectionResetError):
                    await stranger.message()
                async with bound_session(ATTACKER) as http:
                    assert await status(second, http) == 429
                assert (await session.ask("listJobs"))[0][0] is True
            with pytest.raises(Banned):
                second.server.guard.check_ban(ATTACKER, time.monotonic())
            assert await bans(settings, "lift", ATTACKER) == {"lifted": [ATTACKER], "not_banned": []}
            await until(lambda: not len(app.server.guard.bans) and not len(second.server.guard.bans))
