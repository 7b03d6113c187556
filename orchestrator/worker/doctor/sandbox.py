"""The proof: one sandbox is started as the Worker would, computes a slice, and is removed."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.doctor import check
from orchestrator.worker.doctor.check import Check
from orchestrator.worker.limits import SliceLimits
from orchestrator.worker.sandbox import Sandbox

_TIMEOUT_S: Final = 60.0
_SLOW_S: Final = 5.0
_SLICE_S: Final = 10.0


@dataclass(frozen=True)
class Trial:
    """`metered_by`: "parent" (exact to the end), "container" and
    "process" (exact until it ends), "statistics" (a second old)."""

    ready_s: float
    answer: Any
    metered_by: str
    cpu_s: float


async def examine(settings: RuntimeSettings) -> list[Check]:
    """Never raises but when cancelled."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            trial = await _try(settings)
    except TimeoutError:
        return [_broken(f"nothing within {_TIMEOUT_S:g} s"), check.skip("metering", "no sandbox to meter")]
    except (OrchestratorError, BaseExceptionGroup) as error:
        return [_broken(_message(error)), check.skip("metering", "no sandbox to meter")]
    return [judge_trial(trial), judge_metering(trial)]


async def _try(settings: RuntimeSettings) -> Trial:
    async with DockerRuntime(f"doctor-{secrets.token_hex(6)}", settings) as runtime:
        began = time.monotonic()
        sandbox = await Sandbox.start(runtime)
        ready_s = time.monotonic() - began
        try:
            limits = SliceLimits(slice_timeout_s=_SLICE_S, progress_timeout_s=_SLICE_S)
            await sandbox.assign(ev.Assignment("doctor", "(x) => x + 1 === 42"), limits)
            sandbox.submit(1, "data:application/json,41")
            async for event in sandbox.events():
                if isinstance(event, ev.SliceCompleted):
                    return Trial(ready_s, event.result.string, runtime.metering, event.metrics.cpu_time_s)
                if isinstance(event, (ev.SliceFailed, ev.SliceRejected, ev.SandboxEnded)):
                    return Trial(ready_s, event, runtime.metering, 0.0)
        finally:
            await sandbox.kill()
    raise OrchestratorError("the sandbox said nothing", code="ESILENT")


def judge_trial(trial: Trial) -> Check:
    if trial.answer != "true":
        return _broken(f"it answered {trial.answer!r} where true was right")
    wanted = f"ready within {_SLOW_S:g} s, and a right answer"
    found = f"ready after {trial.ready_s:.2f} s, right answer, removed"
    if trial.ready_s > _SLOW_S:
        return check.warn("sandbox", found, wanted, "Look at the machine's load and disk: sandboxes start slowly here.")
    return check.ok("sandbox", found, wanted)


def judge_metering(trial: Trial) -> Check:
    name, wanted = "metering", "CPU time and memory read from a cgroup of ours, exact to the sandbox's end"
    if trial.metered_by == "parent":
        return check.ok(name, "a cgroup of ours around each sandbox", wanted)
    remedy = (
        "Run the Worker where it may make cgroups beside the Engine's (as root, an Engine with driver cgroupfs, the "
        "host's cgroup tree writable); see docs/isolation.md."
    )
    exact = {"container": "the container's own cgroup", "process": "the sandbox's process (it has no cgroup)"}
    if trial.metered_by in exact:
        return check.warn(name, f"{exact[trial.metered_by]}: exact until it ends", wanted, remedy)
    return check.warn(
        name, "the Engine's statistics: up to a second old, so short slices are paid by guess", wanted, remedy
    )


def _broken(why: str) -> Check:
    return check.fail(
        "sandbox", why, "a sandbox that starts and computes",
        "Run `dcp-orchestrator self-check --area conformance` for details; is the image the Evaluator of this version "
        "(`make image`)?",
    )  # fmt: skip


def _message(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.message if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {error}"
