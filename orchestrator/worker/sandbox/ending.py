"""How a sandbox's container ended, as far as anybody can tell."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.worker.docker_runtime import Container, ContainerState
from orchestrator.worker.docker_runtime.container import FALSE_EXIT
from orchestrator.worker.sandbox_events import DeathCause, DeathKind

_EXIT_PATIENCE_S: Final = 3.0
#: SIGILL, SIGTRAP, SIGABRT, SIGSEGV: how V8 ends when it gives up, by what the seccomp profile leaves it.
_CRASH_CODES: Final = (132, 133, 134, 139)


@dataclass(frozen=True, slots=True)
class Ending:
    """`exited`: the Engine says that it runs no more, so its counters are final."""

    cause: DeathCause
    exited: bool


async def end_ours(container: Container, cause: DeathCause) -> Ending:
    """Kill it. Raises RuntimeUnavailable, ContainerRefused, ContainerGone."""
    await container.kill()
    state = await _last_state(container)
    return Ending(replace(cause, exit_code=state.exit_code, oom_killed=state.oom_killed), not state.running)


async def end_theirs(container: Container, stderr: bytes) -> Ending:
    """Its stream ended: usually it exited, and the Engine's `die` event is a moment away. Raises as `end_ours`."""
    state = await _last_state(container)
    if state.running:
        cause = DeathCause(DeathKind.PROTOCOL, "it closed its output and went on", code="ECLOSEDOUTPUT")
        return await end_ours(container, cause)
    return Ending(explain(state, stderr), exited=True)


async def _last_state(container: Container) -> ContainerState:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_PATIENCE_S):
            await container.died.wait()
    return await container.state()


def explain(state: ContainerState, stderr: bytes) -> DeathCause:
    """Why it ended by itself. `stderr` is untrusted: the last that it wrote there."""
    code = state.exit_code
    kind, detail = DeathKind.EXIT, "it exited by itself"
    if code == FALSE_EXIT:
        kind, detail = DeathKind.PROTOCOL, "it faked its own exit (trace-stop)"
    elif state.oom_killed:
        kind, detail = DeathKind.OOM, "out of memory: the kernel killed it at its limit"
    elif code in _CRASH_CODES and b"heap out of memory" in stderr:
        # V8's own word, which a job could forge: it would only be told that its memory ran out.
        kind, detail = DeathKind.OOM, "out of memory: its JavaScript heap reached the limit"
    elif code in _CRASH_CODES:
        detail = "the engine aborted or crashed"
    elif code == 137:
        kind, detail = DeathKind.KILLED, "it was killed from outside"
    elif state.error:
        detail = state.error[:500]
    return DeathCause(kind, detail, exit_code=code, oom_killed=state.oom_killed)
