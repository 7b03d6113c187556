"""The notary: every result gets its receipt, and a disk that fails costs receipts on disk, not results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pathlib
import threading

from orchestrator.jobs.words import SliceMetrics
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import receipts
from orchestrator.worker.notary import Notary
from orchestrator.worker.receipt_audit import Audit
from orchestrator.worker.receipt_files import ReceiptFiles, list_files

KEY = PrivateKey(b"\x11" * 32)
TERMS = receipts.Terms(
    KEY.address, "w" * 22, KEY.address, "sha256:1",
    {"cpuMillis": 1000, "memoryBytes": 1, "pids": 8, "progressTimeoutMs": None, "sliceTimeoutMs": 1000, "swapBytes": 0},
)  # fmt: skip


def delivery(number: int) -> receipts.Delivery:
    return receipts.Delivery("j" * 22, number, "data:,", "1", False, SliceMetrics(0.1, 0.2, 1, 2, 3))


def notary(folder: pathlib.Path) -> Notary:
    files = ReceiptFiles(folder, max_bytes=1 << 20, keep_days=1)
    return Notary(KEY, TERMS, files, clock=lambda: 1_800_000_000.0)


async def test_all_are_signed_and_kept(tmp_path: pathlib.Path) -> None:
    async with notary(tmp_path) as made:
        issued = await asyncio.gather(*(made.receipt(delivery(number)) for number in range(200)))
    assert [receipt["slice"] for receipt in issued] == list(range(200))
    assert {receipts.signer(receipt) for receipt in issued} == {KEY.address}
    audit = Audit()
    for path in list_files(tmp_path):
        for line in path.read_bytes().splitlines():
            audit.take(path.name, line)
    assert audit.good
    assert audit.counts["valid"] == 200
    assert made.statistics() == {"issued": 200, "written": 200, "lost": 0, "unwritten": 0, "files_removed": 0}


async def test_a_disk_that_takes_nothing_costs_no_result(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with notary(tmp_path / "file") as made:
        receipt = await made.receipt(delivery(1))
        assert receipts.signer(receipt) == KEY.address
    assert made.statistics()["written"] == 0


async def test_who_is_cancelled_spoils_nobody_else(tmp_path: pathlib.Path) -> None:
    async with notary(tmp_path) as made:
        async with asyncio.TaskGroup() as group:
            impatient = group.create_task(made.receipt(delivery(1)))
            patient = group.create_task(made.receipt(delivery(2)))
            await asyncio.sleep(0)
            impatient.cancel()
        assert patient.result()["slice"] == 2


async def test_what_waits_for_a_thread_at_the_end_is_kept(tmp_path: pathlib.Path) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    busy = threading.Event()
    async with notary(tmp_path) as made:
        await made.receipt(delivery(1))
        blocked = loop.run_in_executor(None, busy.wait, 20)
        for _ in range(5):
            await asyncio.sleep(0)  # the write stands in line now
        loop.call_later(0.05, busy.set)
    assert await blocked and made.statistics()["written"] == 1
    assert sum(len(path.read_bytes().splitlines()) for path in list_files(tmp_path)) == 1
