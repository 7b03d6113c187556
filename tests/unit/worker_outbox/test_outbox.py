"""Results on their way: on disk until they are answered for, in memory as far as needed, whatever the disk does."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.worker.outbox import MEMORY_BYTES, Outbox
from orchestrator.worker.outbox_store import FILE, OutboxStore, Stored, StoreUnusable

HERE = "http://here:1"


def report(number: int, text: str = "x", **more: Any) -> dict[str, Any]:
    return {
        "job": "j",
        "slice": number,
        "resultV2": {"text": text},
        "authorizationMessage": {"n": 1.5, "0": []},
        **more,
    }


def box(folder: pathlib.Path, most: int = 10**9, scheduler: str = HERE, **more: Any) -> Outbox:
    return Outbox(folder, scheduler, most, **more)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # the writer tells nobody


def on_disk(folder: pathlib.Path, scheduler: str = HERE) -> list[Stored]:
    """What a process would find that starts at this moment, whatever the running one has in memory."""
    store = OutboxStore(folder, scheduler)
    try:
        return store.load()
    finally:
        store.close()


async def test_what_is_not_acknowledged_is_on_disk_soon_and_gone_after_it_is(tmp_path):
    async with box(tmp_path) as outbox:
        entries = [outbox.add(report(n), 100) for n in (1, 2, 3)]
        await until(lambda: outbox.unsafe == 0)
        assert [(one.job, one.slice) for one in on_disk(tmp_path)] == [("j", 1), ("j", 2), ("j", 3)]
        for entry in entries[:2]:
            outbox.done(entry)
        await until(lambda: [one.slice for one in on_disk(tmp_path)] == [3])
    async with box(tmp_path) as later:
        [left] = later.left
        assert await later.take(left) == report(3)
        later.done(left)
    assert on_disk(tmp_path) == []


async def test_what_is_acknowledged_at_once_is_never_written(tmp_path):
    async with box(tmp_path) as outbox:
        for n in range(100):
            entry = outbox.add(report(n), 100)
            assert await outbox.take(entry) == report(n)
            outbox.done(entry)
        assert outbox.statistics()["counts"] == {"never written": 100}
    assert on_disk(tmp_path) == []


async def test_what_may_wait_is_not_written_beside_what_is_dear(tmp_path):
    async with box(tmp_path) as outbox:
        cheap = outbox.add(report(1), 100, soon=False)
        outbox.add(report(2), 100, soon=True)
        await until(lambda: outbox.unsafe == 1)
        assert [one.slice for one in on_disk(tmp_path)] == [2]
        outbox.done(cheap)
        counts = outbox.statistics()["counts"]
        assert (counts["written"], counts["never written"]) == (1, 1)


async def test_what_waits_for_its_turn_is_written_at_once(tmp_path):
    async with box(tmp_path, window_bytes=1000) as outbox:
        first, second = (outbox.add(report(n, "y" * 900), 900, soon=False) for n in (1, 2))
        assert outbox.take_at_once(first) == report(1, "y" * 900)
        assert outbox.take_at_once(second) is None
        waiting = asyncio.create_task(outbox.take(second))
        await until(lambda: second.report is None)
        assert [one.slice for one in on_disk(tmp_path)] == [2]
        outbox.done(first)
        assert await waiting == report(2, "y" * 900)
        assert outbox.take_at_once(second) == report(2, "y" * 900)


async def test_leaving_writes_what_is_left(tmp_path):
    async with box(tmp_path) as outbox:
        outbox.add(report(1), 100)
    assert len(on_disk(tmp_path)) == 1


async def test_beyond_the_window_texts_leave_memory_and_come_back_in_turn(tmp_path):
    async with box(tmp_path, window_bytes=1000) as outbox:
        entries = [outbox.add(report(n, "y" * 900), 900) for n in range(5)]
        await until(lambda: outbox.unsafe == 0)
        first = await outbox.take(entries[0])
        assert first == report(0, "y" * 900)
        waiting = [asyncio.create_task(outbox.take(entry)) for entry in entries[1:]]
        await asyncio.sleep(0)
        assert [entry.report is None for entry in entries] == [False, True, True, True, True]
        assert outbox.statistics()["waiting_for_turn"] == 4
        for n, task in enumerate(waiting):
            assert not task.done()
            outbox.done(entries[n])
            assert await task == report(n + 1, "y" * 900)
        outbox.done(entries[4])


async def test_renewed_reports_replace_the_old_ones_on_disk(tmp_path):
    async with box(tmp_path) as outbox:
        entry = outbox.add(report(1), 100)
        await until(lambda: outbox.unsafe == 0)
        outbox.renew(entry, report(1, authorizationMessage={"newer": True}))
        await until(lambda: outbox.unsafe == 0)
    async with box(tmp_path) as later:
        found = await later.take(later.left[0])
        assert found is not None and found["authorizationMessage"] == {"newer": True}


async def test_a_full_outbox_keeps_the_rest_in_memory_says_so_and_recovers(tmp_path):
    rooms: list[int] = []
    async with box(tmp_path, 1000, on_room=rooms.append) as outbox:
        entries = [outbox.add(report(n, "z" * 400), 500) for n in range(3)]
        await until(lambda: bool(outbox.trouble))
        assert "1000 bytes" in outbox.trouble and outbox.statistics()["only_in_memory"] >= 1
        assert rooms == [MEMORY_BYTES]
        assert await outbox.take(entries[2]) == report(2, "z" * 400)
        outbox.done(entries[0])
        outbox.done(entries[1])
        await until(lambda: not outbox.trouble and outbox.unsafe == 0)
        assert [one.slice for one in on_disk(tmp_path)] == [2]


async def test_a_folder_that_cannot_be_used_costs_nothing_but_safety(tmp_path):
    folder = tmp_path / "not yet"
    async with box(folder) as outbox:
        assert "cannot be used" in outbox.trouble
        entry = outbox.add(report(1), 100)
        assert await outbox.take(entry) == report(1)
        outbox.refused(entry, "ELATE", "too late")
        folder.mkdir()
        await until(lambda: not outbox.trouble)
        assert len(on_disk(folder)) == 1


async def test_a_damaged_file_is_put_aside(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database at all " * 1000)
    async with box(tmp_path) as outbox:
        assert outbox.left == [] and not outbox.trouble
        outbox.add(report(1), 100)
    assert len(on_disk(tmp_path)) == 1
    assert [path for path in tmp_path.iterdir() if "damaged" in path.name]


async def test_results_for_another_scheduler_stay_for_it(tmp_path):
    async with box(tmp_path) as outbox:
        outbox.add(report(1), 100)
    async with box(tmp_path, scheduler="http://there:1") as other:
        assert other.left == [] and other.statistics()["disk_bytes"] > 0
        other.add(report(2), 100)
    assert [one.slice for one in on_disk(tmp_path)] == [1]
    assert [one.slice for one in on_disk(tmp_path, "http://there:1")] == [2]


async def test_refused_results_are_recorded_with_their_reason(tmp_path):
    async with box(tmp_path, clock=lambda: 7.0) as outbox:
        entry = outbox.add(report(5), 100)
        outbox.refused(entry, "ELATE", "the job has ended")
        outbox.done(entry)
        told = outbox.statistics()
    late = {"job": "j", "slice": 5, "code": "ELATE", "message": "the job has ended", "at": 7.0, "finished_at": 7.0}
    assert (told["late"], told["late_results"]) == (1, [late])
    assert [json.loads(line) for line in (tmp_path / "late-results.jsonl").read_text().splitlines()] == [late]


def test_a_write_is_all_or_nothing(tmp_path):
    store = OutboxStore(tmp_path, HERE)
    store.load()
    good = (Stored(1, "j", 1, 0.0, 2), "{}")
    bad = (Stored(2, "j", "one", 0.0, 2), "{}")  # type: ignore[arg-type]  # what STRICT refuses
    with pytest.raises(StoreUnusable, match="cannot be used"):
        store.write([good, bad], [])
    assert store.load() == []
    store.write([good], [])
    assert store.load() == [good[0]]
    store.close()


async def test_with_a_bound_of_nothing_it_is_off_and_that_is_no_trouble(tmp_path, caplog):
    async with box(tmp_path) as outbox:
        outbox.add(report(1), 100)
    rooms: list[int] = []
    async with box(tmp_path, most=0, on_room=rooms.append) as outbox:
        [left] = outbox.left
        assert await outbox.take(left) == report(1)
        entry = outbox.add(report(2), 100)
        outbox.renew(entry, report(2, receipt=1))
        assert await outbox.take(entry) == report(2, receipt=1)
        outbox.done(left)
        await until(lambda: on_disk(tmp_path) == [])
        assert (outbox.trouble, outbox.unsafe, outbox.kept, rooms) == ("", 1, 0, [])
        assert outbox.statistics()["only_in_memory"] == 1
        assert outbox.room == MEMORY_BYTES
        outbox.done(entry)
        assert outbox.unsafe == 0
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


async def test_what_is_lost_at_the_end_of_one_that_is_off_is_said(tmp_path, caplog):
    async with box(tmp_path, most=0) as outbox:
        outbox.add(report(1), 100)
    [line] = [line for line in caplog.records if line.message == "results_lost"]
    assert (line.count, line.error) == (1, "outbox_bytes is 0")
