"""A nursery of workers that do nothing but start, use and throw away sandboxes, each killed at its own moment.

Forks instead of starting Python anew, so that two hundred lives do not take long. One line in per life, `name seconds
since`: how long it lives from its "birth", or from the moment when it is "ready" to make sandboxes. One line out when
it has been killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time

from orchestrator.errors import OrchestratorError
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox_events import Assignment, SandboxDied


async def churn(worker: str, ready: int) -> None:
    """Every step of a sandbox's life, one after the other and side by side, for ever."""
    settings = PoolSettings(capacity=1, warm=int(worker[-1]) % 2)
    async with DockerRuntime(worker, RuntimeSettings()) as runtime, SandboxPool(runtime, settings) as pool:
        os.write(ready, b"!")
        for number in range(1_000_000):
            with contextlib.suppress(SandboxDied, OrchestratorError):
                sandbox = await pool.take()
                await sandbox.assign(Assignment("job", "(x) => { progress(); return x; }", ()))
                sandbox.submit(number, "data:application/json,1")
                async for _batch in sandbox.batches():
                    break
                await sandbox.kill()


def live(worker: str, ready: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a dying loop says is of no interest
    try:
        asyncio.run(churn(worker, ready))
    finally:
        os._exit(1)


def main() -> None:
    for line in sys.stdin:
        worker, seconds, since = line.split()
        heard, ready = os.pipe()
        child = os.fork()
        if child == 0:
            live(worker, ready)
        os.close(ready)
        if since == "ready":
            os.read(heard, 1)
        os.close(heard)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(worker, flush=True)


if __name__ == "__main__":
    main()
