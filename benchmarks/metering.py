"""What metering and receipts cost per slice, each on and off, in turns in one run.

Metering: empty slices, pipelined as the Worker does it, through a warm sandbox whose counters are read at each answer,
and through one whose counters never are. Receipts: what the Worker does for a result on its way out, without (the
message is made) and with (hashed, signed, kept on disk, and carried by the message), in batches of the size in which
results come. Ratios are medians over the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks import common
from benchmarks.slice_overhead import WORK_FUNCTION, Ours
from orchestrator.jobs.words import SliceMetrics
from orchestrator.protocol import js_json, signing
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import receipts, reports
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.limits import SandboxLimits, SliceLimits
from orchestrator.worker.metering import Usage
from orchestrator.worker.notary import Notary
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.receipt_files import ReceiptFiles

BATCH = 100


class _Nothing:
    """Counters that nobody reads."""

    exact = False

    def read(self, now: float) -> Usage:
        return Usage(0, 0)

    def glance(self, now: float) -> Usage:
        return Usage(0, 0)

    def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def warm(*, metered: bool) -> AsyncIterator[Ours]:
    async with common.docker_runtime() as runtime, SandboxPool(runtime, PoolSettings(capacity=1, warm=1)) as pool:
        sandbox = await pool.take()
        await sandbox.assign(ev.Assignment("j", WORK_FUNCTION))
        assert sandbox._container is not None
        if not metered:
            sandbox._container.usage.close()
            sandbox._container.usage = _Nothing()
        elif not sandbox._container.usage.exact:
            raise SystemExit("this machine's cgroups cannot be read: there is no metering to measure")
        yield Ours(sandbox)


async def metering(rounds: int, count: int) -> dict[str, list[float]]:
    """Milliseconds per slice."""
    times: dict[str, list[float]] = {"metered": [], "not metered": []}
    async with warm(metered=True) as on, warm(metered=False) as off:
        for side in (on, off):
            await side.pipelined(count)
        for number in range(rounds):
            turns = [("metered", on), ("not metered", off)]
            for name, side in turns if number % 2 else reversed(turns):
                times[name].append(await side.pipelined(count))
    return times


def a_result() -> act.SendResult:
    """As it comes from an empty slice."""
    authorization = {"owner": "0x" + "1" * 40, "auth": {"token": "t" * 40}}
    result = ev.ResultText("0", "json", "application/json")
    metrics = SliceMetrics(0.0001, 0.0002, 200, 300, 5_000_000)
    return act.SendResult(1, "j" * 22, 1, authorization, result, None, metrics, None, True, "data:application/json,0")


async def delivering(rounds: int, count: int, folder: pathlib.Path) -> dict[str, list[float]]:
    """Milliseconds per result; the messages are written and signed in batches, as the link does."""
    key = PrivateKey.generate()
    terms = receipts.Terms(
        key.address, "w" * 22, key.address, "sha256:" + "0f" * 32,
        receipts.limits_in_force(SandboxLimits(), SliceLimits()),
    )  # fmt: skip
    action = a_result()
    times: dict[str, list[float]] = {"with receipts": [], "without receipts": []}
    async with Notary(key, terms, ReceiptFiles(folder, max_bytes=1 << 30, keep_days=1)) as notary:

        async def batch(*, signed: bool) -> None:
            messages: list[dict[str, Any]] = [
                reports.result(action, "w" * 22, key.address, reports.result_v2("0", "json", "application/json", True))
                for _ in range(BATCH)
            ]
            if signed:
                issued = await asyncio.gather(*(notary.receipt(reports.delivery(action)) for _ in messages))
                messages = [{**message, "receipt": one} for message, one in zip(messages, issued, strict=True)]
            signing.seal(key, js_json.dumps({"payload": messages}))

        for number in range(rounds + 1):
            turns = [("with receipts", True), ("without receipts", False)]
            for name, signed in turns if number % 2 else reversed(turns):
                start = time.perf_counter()
                for _ in range(count // BATCH):
                    await batch(signed=signed)
                if number:  # the first round warms up
                    times[name].append((time.perf_counter() - start) * 1000 / count)
    return times


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    rounds, slices, results = (5, 2_000, 1_000) if options.quick else (21, 5_000, 5_000)
    times = asyncio.run(metering(rounds, slices))
    with tempfile.TemporaryDirectory() as name:
        times |= asyncio.run(delivering(rounds, results, pathlib.Path(name)))
    middle = {name: common.median(figures) for name, figures in times.items()}
    ratios = {
        (on, off): common.median(a / b for a, b in zip(times[on], times[off], strict=True))
        for on, off in (("metered", "not metered"), ("with receipts", "without receipts"))
    }
    slice_ms, receipt_ms = middle["metered"], middle["with receipts"] - middle["without receipts"]
    goals = [
        common.Goal("slice metered / not metered", ratios["metered", "not metered"]),
        common.Goal("result with receipt / without", ratios["with receipts", "without receipts"]),
        common.Goal("a receipt / an empty slice in its sandbox", receipt_ms / slice_ms),
    ]
    lines = [
        f"{name}: {middle[name]:.4f} ms (rounds {min(figures):.4f} to {max(figures):.4f})"
        for name, figures in times.items()
    ]
    common.report(options.output, {"machine": machine, "milliseconds": middle}, goals, lines)


if __name__ == "__main__":
    main()
