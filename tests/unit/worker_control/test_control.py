"""The control socket: who may have it, what it answers, what it says when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import re
import socket
import stat

import aiohttp
import pytest

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.worker.control import ControlServer, jsonable
from orchestrator.worker.control_client import ControlClient, NoWorker
from orchestrator.worker.control_socket import LONGEST_PATH, SOCKET, StateInUse, StateLock

log = logging.getLogger("orchestrator.test_control")


class Toy:
    """What is asked, without a worker."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.held = 3
        self.delivered = True

    def status(self):
        return {"state": "idle", "never": float("inf")}

    def explain(self, **of):
        self.calls.append(("explain", of))
        return {"findings": []}

    def drain(self):
        self.calls.append(("drain",))

    def drain_progress(self):
        return {"held": self.held}

    def outcome(self):
        return {"delivered": self.delivered}

    def pause(self, reason, *, source="command", give_back=False):
        self.calls.append(("pause", reason, source, give_back))

    def resume(self, *, source="command"):
        self.calls.append(("resume", source))


@contextlib.asynccontextmanager
async def served(folder: pathlib.Path, toy: Toy):
    async with ControlServer(toy, folder), ControlClient(folder) as client:
        yield client


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def post(folder: pathlib.Path, path: str, body: str | bytes) -> tuple[int, dict]:
    connector = aiohttp.UnixConnector(path=str(folder / SOCKET))
    async with (
        aiohttp.ClientSession("http://worker", connector=connector) as http,
        http.post(path, data=body) as response,
    ):
        return response.status, await response.json()


# -- the socket --------------------------------------------------------------------------------------------------------


async def test_only_its_user_may_connect_and_nothing_stays(folder):
    async with served(folder, Toy()) as client:
        mode = (folder / SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        assert await client.status() == {"state": "idle", "never": None}
    assert not (folder / SOCKET).exists()


async def test_the_socket_of_a_killed_worker_is_replaced(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / SOCKET))
    async with ControlClient(folder) as client:
        with pytest.raises(NoWorker, match=r"nobody listens on .*control.sock: the worker was killed"):
            await client.status()
    async with served(folder, Toy()) as client:
        assert (await client.status())["state"] == "idle"


async def test_a_path_longer_than_the_kernel_takes(folder):
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True, mode=0o700)
    assert len(os.fsencode(deep / SOCKET)) > LONGEST_PATH
    async with served(deep, Toy()) as client:
        assert (await client.status())["state"] == "idle"
        assert (deep / SOCKET).exists()
    assert not (deep / SOCKET).exists()


async def test_without_proc_a_long_path_is_an_error_that_names_the_flag(folder, monkeypatch):
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(pathlib.Path, "exists", lambda _self: False)
    with pytest.raises(InvalidInput, match="more than 107 bytes: give a shorter --state"):
        async with ControlServer(Toy(), deep):
            pass


async def test_a_folder_that_others_may_write_is_refused(folder):
    folder.chmod(0o707)
    with pytest.raises(InvalidInput, match="chmod o-w"):
        async with ControlServer(Toy(), folder):
            pass
    folder.chmod(0o2770)  # a group may have it, as on a volume of Kubernetes
    async with served(folder, Toy()) as client:
        assert (await client.status())["state"] == "idle"


def test_one_worker_per_state_folder(tmp_path):
    folder = tmp_path / "new" / "state"
    with StateLock(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with pytest.raises(StateInUse, match=rf"process {os.getpid()}.*--state"), StateLock(folder):
            pass
        # The loser took nothing away: the place is still taken.
        with pytest.raises(StateInUse), StateLock(folder):
            pass
    with StateLock(folder):
        pass


def test_a_state_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InvalidInput, match=r"state folder .*file/state cannot be used"),
        StateLock(tmp_path / "file/state"),
    ):
        pass


async def test_no_worker_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        async with ControlClient(folder) as client:
            with pytest.raises(NoWorker, match=r"no worker runs on .* \(no socket .*control.sock\): start one"):
                await client.status()


# -- routes ------------------------------------------------------------------------------------------------------------


async def test_explain_takes_its_keys(folder):
    toy = Toy()
    async with served(folder, toy) as client:
        assert await client.explain() == {"findings": []}
        await client.explain(job="j", slice_number=4, sandbox=2)
        with pytest.raises(OrchestratorError, match="of which job"):
            await client.explain(slice_number=4)
    assert toy.calls[1] == ("explain", {"job": "j", "slice_number": 4, "sandbox": 2})


async def test_a_drain_is_followed_to_the_end(folder):
    toy = Toy()
    async with ControlClient(folder) as client:
        server = await ControlServer(toy, folder).__aenter__()
        lines = client.drain_and_wait()
        assert await anext(lines) == {"event": "draining", "held": 3}
        toy.held, toy.delivered = 0, False
        closing = asyncio.create_task(server.__aexit__(None, None, None))
        rest = [line async for line in lines]
        await closing
    assert rest[-1] == {"event": "ended", "delivered": False} and toy.calls == [("drain",)]


async def test_a_drain_without_waiting(folder):
    async with served(folder, Toy()) as client:
        assert await client.drain() == {"held": 3}


async def test_pause_and_resume(folder):
    toy = Toy()
    async with served(folder, toy) as client:
        answer = await client.pause(reason="a meeting", give_back=True, for_s=None)
        assert answer == {"paused": True, "reason": "a meeting", "for_s": None}
        await client.resume()
    assert toy.calls == [("pause", "a meeting", "command", True), ("resume", "command")]


async def test_a_pause_for_a_time_ends_by_itself_unless_another_word_comes(folder):
    toy = Toy()
    resumed = asyncio.Event()
    toy.resume = lambda *, source: resumed.set()  # type: ignore[method-assign]
    async with served(folder, toy) as client:
        await client.pause(reason=None, for_s=0.01)
        async with asyncio.timeout(10):
            await resumed.wait()
        resumed.clear()
        server_timers = [await client.pause(reason=None, for_s=3600), await client.pause(reason=None)]
        assert [one["for_s"] for one in server_timers] == [3600, None]
    assert not resumed.is_set()
    assert [call[1].split(",")[0] for call in toy.calls] == ["paused by a command"] * 3
    assert re.search(r", until \d\d:\d\d$", toy.calls[1][1]) and "until" not in toy.calls[2][1]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/pause", '{"reasn": "x"}', 400, "unknown field 'reasn': known are reason, give_back, for_s"),
        ("/v1/pause", '{"give_back": 1}', 400, "give_back is 1"),
        ("/v1/pause", '{"for_s": true}', 400, "for_s is True"),
        ("/v1/pause", '{"for_s": -1}', 400, "for_s is -1"),
        ("/v1/pause", '{"for_s": NaN}', 400, "for_s is nan"),
        ("/v1/pause", '{"reason": "' + "x" * 300 + '"}', 400, "300 characters"),
        ("/v1/pause", "[1]", 400, "list, not an object"),
        ("/v1/pause", "{", 400, "not JSON"),
        ("/v1/drain", b"\xff\xfe", 400, "not"),
        ("/v1/drain?wait=x", "", 400, "wait is 'x'"),
        ("/v1/drain?now=1", "", 400, "unknown field 'now'"),
        ("/v1/drain", "x" * 20_000, 413, "/v1/drain"),
        ("/v2/drain", "", 404, "/v2/drain"),
        ("/v1/status", "", 405, "/v1/status"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(folder, path, body, status, words):
    toy = Toy()
    async with ControlServer(toy, folder):
        got, answer = await post(folder, path, body)
    assert (got, toy.calls) == (status, []) and words in answer["message"] and answer["code"]


# -- the log -----------------------------------------------------------------------------------------------------------


async def test_the_log_of_before_and_live(folder, caplog):
    caplog.set_level(logging.INFO, "orchestrator")
    async with served(folder, Toy()) as client:
        log.info("before", extra={"job": "j", "thing": object})
        first = [line async for line in client.log(follow=False)]
        assert first[0]["event"] == "before" and first[0]["job"] == "j" and first[0]["level"] == "info"
        assert first[0]["thing"] == str(object)
        lines = client.log(recent=0)
        waiting = asyncio.ensure_future(anext(lines))
        while not waiting.done():  # the reader may not be there yet when the first is written
            log.warning("live %d", 1)
            await asyncio.sleep(0)
        assert (await waiting)["event"] == "live 1"
        await lines.aclose()


async def test_the_end_of_the_worker_ends_the_log(folder):
    async with ControlClient(folder) as client:
        async with ControlServer(Toy(), folder):
            lines = client.log()
            log.warning("the last word")
            assert (await anext(lines))["event"] == "the last word"
        assert [line async for line in lines] == []


async def test_records_of_other_threads_and_wild_ones(folder):
    async with served(folder, Toy()) as client:
        await asyncio.to_thread(log.error, "from a thread %s", "x" * 5000)
        lines = [line async for line in client.log(recent=1, follow=False)]
    assert len(lines[0]["event"]) == 2000


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_what_json_has_no_word_for():
    assert jsonable({1: float("nan"), "a": (1, {2}), "p": pathlib.Path("x")}) == {"1": None, "a": [1, [2]], "p": "x"}
