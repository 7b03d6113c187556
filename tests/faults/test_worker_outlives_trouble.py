"""The Worker is killed, frozen, out of file descriptors, out of disk: what it has finished arrives, nothing is left.

Stated: within 30 s of a restart the Scheduler has every result that was finished before; nothing is computed twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.e2e import harness
from tests.faults.parts import Parts, assert_complete, deployed, running_parts
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(900)]

BACK_S = 30.0


def stored(parts: Parts) -> set[int]:
    """Slices whose results lie in the Worker's outbox."""
    return {number for (number,) in _rows(parts.folder / "worker" / "outbox.db", "SELECT slice FROM results")}


def accepted(parts: Parts) -> dict[int, int]:
    """{slice: lease} of the results that the Scheduler has."""
    return dict(_rows(parts.folder / "scheduler" / "scheduler.sqlite", "SELECT number, lease FROM slice_results"))


def newest_lease(parts: Parts) -> int:
    [(lease,)] = _rows(parts.folder / "scheduler" / "scheduler.sqlite", "SELECT max(id) FROM leases")
    return lease


def _rows(path: pathlib.Path, query: str) -> list[tuple[int, ...]]:
    if not path.exists():
        return []
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        return list(database.execute(query))
    finally:
        database.close()


async def test_killed_while_the_scheduler_is_away(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, lasting: Callable[..., float]
) -> None:
    assert parts.worker and parts.scheduler
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await parts.scheduler.kill()
        before, newest = accepted(parts), newest_lease(parts)
        await asyncio.sleep(lasting(60, least=4))  # it goes on computing what it holds
        await parts.worker.kill()
        kept = stored(parts)
        assert kept - before.keys(), "nothing was finished and unacknowledged: the test shows nothing"
        end = (parts.folder / "worker.log").stat().st_size
        await parts.start_worker()
        await parts.start_scheduler()
        await parts.wait_for_log("worker_started", after=end)
        await parts.wait_for_log("leftovers_settled", after=end, within=BACK_S)
        after = accepted(parts)
        assert kept <= after.keys()
        late = parts.folder / "worker" / "late-results.jsonl"
        assert not late.exists(), late.read_text()
        # Under the lease under which they were computed: nobody computed them again.
        assert all(after[number] <= newest for number in kept), (kept, after)
        await assert_complete(client, parts, duplicates_allowed=True)
        assert stored(parts) == set()


async def test_stopped_for_a_minute(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, lasting: Callable[..., float]
) -> None:
    """SIGSTOP: sandboxes go on, nobody listens to them; afterwards no slice is blamed and nothing is lost."""
    assert parts.worker
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await parts.worker.freeze(lasting(60, least=5))
        await assert_complete(client, parts)


async def test_out_of_file_descriptors(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, lasting: Callable[..., float]
) -> None:
    """The limit is lowered beneath what is open: nothing new can be opened. It lives, and recovers with the limit."""
    assert parts.worker
    await parts.worker_ready()
    pid = parts.worker.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, before[1]))
    try:
        async with deployed(parts, wallet, node, npm_modules) as client:
            end = await parts.wait_for_log("out_of_file_descriptors", within=10)
            await parts.wait_for_log("LimitNOFILE", within=10)
            await asyncio.sleep(lasting(60, least=5))
            assert parts.worker.process.returncode is None, parts.logs()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await parts.wait_for_log("file_descriptors_are_back", after=end, within=BACK_S)
            await assert_complete(client, parts)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "worker"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def assert_outbox(parts: Parts, *, ok: bool) -> None:
    """Health, explanation and metric say the same of the disk for finished results."""
    _status, text = await parts.asked("/readyz")
    told = json.loads(text)["outbox"]
    assert told["ok"] is ok and ("full" in told["reason"]) is not ok, told
    _status, text = await parts.asked("/metrics")
    [value] = re.findall(r"^dcp_worker_outbox_degraded(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    assert float(value) == (not ok)
    found = [one for one in await parts.explained() if one["code"] == "EOUTBOX"]
    assert bool(found) is not ok
    assert all("full" in one["what"] and str(parts.folder / "worker") in one["remedy"] for one in found)


async def test_its_disk_is_full_while_the_scheduler_is_away(
    small_disk: pathlib.Path, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path,
    npm_modules: pathlib.Path,
) -> None:  # fmt: skip
    """Results stay in memory, which is said; with room on the disk they go there; all arrive in the end."""
    async with (
        running_parts(tmp_path, watch=True) as parts,
        deployed(parts, wallet, node, npm_modules) as client,
    ):
        assert parts.worker and parts.scheduler
        await client.wait_for("result", count=20)
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        await parts.scheduler.kill()
        end = await parts.wait_for_log("outbox_degraded")
        assert parts.worker.process.returncode is None
        await assert_outbox(parts, ok=False)
        ballast.unlink()
        await parts.wait_for_log("outbox_is_back", after=end, within=BACK_S)
        await assert_outbox(parts, ok=True)
        assert stored(parts)
        await parts.start_scheduler()
        await assert_complete(client, parts, duplicates_allowed=True)
    assert containers_of(parts.worker_id()) == []
