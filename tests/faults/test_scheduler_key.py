"""The Scheduler has lost its keystore and answers with another key: nobody is believed until the owner says so.

Stated: 30 s after it answers with its new key the Worker's log, `worker explain` and /readyz name both addresses and the
one change that helps; within 45 s of accepting it jobs are computed.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import signal
from collections.abc import AsyncIterator

import pytest

from tests.e2e import harness
from tests.faults.parts import Parts, assert_complete, deployed, free_port, stop
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(600)]

SAID_S = 30.0
BACK_S = 45.0
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def identity_cache(parts: Parts) -> dict[str, str]:
    path = parts.folder / "worker" / "identity-cache.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def known_keys(parts: Parts) -> set[str]:
    """Addresses that the Worker remembers of its Scheduler."""
    return set(identity_cache(parts).values())


def known_services(parts: Parts) -> set[str]:
    return {url.rstrip("/").rpartition("/")[2] for url in identity_cache(parts)}


@pytest.fixture
async def changed(tmp_path: pathlib.Path) -> AsyncIterator[Parts]:
    """Parts whose Worker has seen the Scheduler's key, and whose Scheduler has another one since."""
    parts = Parts(tmp_path, free_port())
    config = tmp_path / "settings.toml"
    config.write_text("[worker]\n")
    parts.worker_env = {"DCP_ORCHESTRATOR_CONFIG": str(config)}
    parts.watch()
    try:
        await parts.start_scheduler()
        await parts.start_worker()
        await parts.worker_ready()
        async with asyncio.timeout(BACK_S):
            while not {"taskDistributor", "eventRouter"} <= known_services(parts):
                await asyncio.sleep(0.05)  # a file announces itself in no other way
        assert parts.scheduler
        await parts.scheduler.stop()
        (tmp_path / "scheduler" / "scheduler.keystore").unlink()
        await parts.start_scheduler()
        yield parts
    finally:
        await stop(parts)
    assert containers_of(parts.worker_id()) == []


async def compute(parts: Parts, node: pathlib.Path, npm_modules: pathlib.Path) -> None:
    """A client that meets the Scheduler for the first time has it compute a job."""
    folder = parts.folder / "dcp"
    folder.mkdir()
    wallet = await harness.Wallet.create(folder)
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", within=BACK_S)
        await assert_complete(client, parts)


async def test_it_is_said_and_a_restart_with_the_flag_accepts_it(
    changed: Parts, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    assert changed.worker
    [before] = known_keys(changed)
    end = await changed.wait_for_log("scheduler_key_changed", within=SAID_S)
    await changed.wait_for_log("--accept-scheduler-key", within=5)
    line = next(
        line for line in (changed.folder / "worker.log").read_text()[: end + 2000].splitlines() if "key_changed" in line
    )
    [now] = set(ADDRESS.findall(line)) - {before}
    assert before in line

    finding = (await changed.explained())[0]
    assert finding["code"] == "ESCHEDULERKEY" and finding["blocking"]
    assert before in finding["what"] and now in finding["what"]
    assert f"--accept-scheduler-key {now}" in finding["remedy"]

    status, text = await changed.asked("/readyz")
    told = json.loads(text)
    assert status == 503 and not told["ready"]
    for part in (before, now, "--accept-scheduler-key"):
        assert part in told["reason"]

    # Another address than the one that answers accepts nobody.
    assert await changed.worker.stop() == 0, changed.logs()
    size = (changed.folder / "worker.log").stat().st_size
    await changed.start_worker("--accept-scheduler-key", before)
    await changed.wait_for_log("worker_started", after=size)
    await changed.wait_for_log("scheduler_key_changed", after=size, within=SAID_S)
    assert known_keys(changed) == {before}
    assert await changed.worker.stop() == 0, changed.logs()

    await changed.start_worker("--accept-scheduler-key", now)
    await compute(changed, node, npm_modules)
    assert known_keys(changed) == {now}
    assert changed.worker is not None
    assert await changed.worker.stop() == 0, changed.logs()

    # From here on the new key is the known one, and the flag is not needed.
    await changed.start_worker()
    await changed.worker_ready()
    assert (await changed.explained())[0]["code"] != "ESCHEDULERKEY"


async def test_settings_that_are_read_again_accept_it(
    changed: Parts, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    assert changed.worker
    await changed.wait_for_log("scheduler_key_changed", within=SAID_S)
    now = (await changed.explained())[0]["remedy"].rpartition(" ")[2]
    (changed.folder / "settings.toml").write_text(f'[worker]\naccept_scheduler_key = ["{now}"]\n')
    changed.worker.process.send_signal(signal.SIGHUP)
    await compute(changed, node, npm_modules)
    assert known_keys(changed) == {now}
