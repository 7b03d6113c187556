"""Pure: whether a worker is alive, and whether it is ready: whether it does what it is there for.

The truth of readiness is the last answer of the Scheduler: a worker that has not been answered for long is not ready,
however well it looks from inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from orchestrator.worker.audit import Statistics
from orchestrator.worker.trusting import KeyChange

STUCK_AFTER_S: Final = 60.0
"""The supervisor looks about once a second."""

_NOT_ACCEPTING: Final = {
    "connecting": "the Scheduler was not reached yet",
    "starting": "no sandbox has started yet",
    "draining": "it drains: it takes no more work",
    "stopping": "it stops",
    "paused": "it is paused",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition. `reason` says what is wrong; it is empty when `ok`."""

    ok: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Health:
    """`reason` is that of the first check that failed, "" when all is well."""

    ok: bool
    reason: str
    detail: dict[str, Any]


def readiness(
    books: Statistics,
    state: str,
    *,
    connected: bool,
    docker: str,
    now: float,
    most_s: float,
    began: float,
    key_change: KeyChange | None = None,
    outbox: str | None = None,
) -> Health:
    """`state` is `status.state_of`'s word, `docker` why sandboxes cannot be had ("" when they can).

    `outbox` is why finished results are not on disk ("" when they are, None before there are any): that does not make
    a worker less ready, and is told beside the checks.
    `most_s` is the age at which an answer of the Scheduler is too old; times are on the supervisor's clock.
    """
    age = None if books.heard_at is None else max(now - books.heard_at, 0.0)
    checks = {
        "accepting": _accepting(state),
        "docker": Check(not docker, docker),
        "scheduler": _scheduler(age, connected=connected, waited_s=now - began, most_s=most_s)
        if key_change is None
        else Check(False, f"{key_change.what}; {key_change.remedy}"),
    }
    wrong = [check.reason for check in checks.values() if not check.ok]
    detail: dict[str, Any] = {name: dataclasses.asdict(check) for name, check in checks.items()}
    detail["scheduler"] |= {"last_answer_s": None if age is None else round(age, 3), "limit_s": most_s}
    return Health(not wrong, wrong[0] if wrong else "", {"state": state, "checks": detail, **_outbox(outbox)})


def _outbox(trouble: str | None) -> dict[str, Any]:
    return {} if trouble is None else {"outbox": dataclasses.asdict(Check(not trouble, trouble))}


def _accepting(state: str) -> Check:
    reason = _NOT_ACCEPTING.get(state, "")
    return Check(not reason, reason)


def _scheduler(age: float | None, *, connected: bool, waited_s: float, most_s: float) -> Check:
    if age is None:
        what = "has not answered a request for work yet" if connected else "cannot be reached"
        return Check(False, f"the Scheduler {what} ({waited_s:.0f} s since the start)")
    if age > most_s:
        return Check(False, f"the Scheduler last answered {age:.0f} s ago; more than {most_s:g} s is too long")
    return Check(True)


def liveness(last_look: float | None, now: float) -> Health:
    """`last_look` is when the supervisor last looked after its work; None while it does not run."""
    silent = None if last_look is None else now - last_look
    ok = silent is None or silent <= STUCK_AFTER_S
    reason = "" if ok else f"the supervisor has not looked after its work for {silent:.0f} s"
    return Health(ok, reason, {"last_look_s": None if silent is None else round(silent, 3)})
