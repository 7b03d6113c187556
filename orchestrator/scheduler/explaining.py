"""Pure: why a job waits, and what would change it.

Whoever asks gathers `Facts`; `explain` turns them into findings. The first one decides; the others are true as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.lifecycle import ENDED, Counts
from orchestrator.scheduler.matching import WhyNot
from orchestrator.scheduler.pricing import to_dcc
from orchestrator.scheduler.redundancy import Rule, State

WAIT: Final = "nothing: wait"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One reason, and the one change that would help. `count` is of jobs, slices or workers, as the sentence says."""

    code: str
    what: str
    remedy: str
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class GroupFacts:
    label: str
    workers: int
    """that are present and in it"""
    full: bool = False
    """its limits let no other worker in"""
    outgrown: bool = False
    """the job may pay more than it takes"""


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """What one worker has of the job."""

    worker: str
    slices: int
    for_s: float
    expires_in_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Doubt:
    """The slice that has waited longest for somebody else's opinion."""

    number: int
    waited_s: float
    left_s: float
    """until it is given up"""
    quorum: int
    """opinions that must agree, as things stand"""
    missing: int
    """at least so many more are wanted"""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    job_id: str
    status: RunStatus
    counts: Counts
    closed: bool
    admitted: bool
    local_exec: bool
    estimating: int | None
    """slices that are still to be measured first; None when the job is not in its estimation"""
    price: int
    account: str
    available: int
    """units in the payment account"""
    slice_cost: int | None = None
    """units that a slice may cost at most; None: its price"""
    rule: Rule | None = None
    opinions: Mapping[State, int] = dataclasses.field(default_factory=dict)
    """results of a job whose workers must agree, by what became of them"""
    doubt: Doubt | None = None
    required: int = 0
    """units that a paused job lacks; 0 when that is not known"""
    groups: tuple[GroupFacts, ...] = ()
    present: int = 0
    """workers"""
    able: int = 0
    """workers that may have the job"""
    reasons: Mapping[WhyNot, int] = dataclasses.field(default_factory=dict)
    """workers that may not, by why"""
    lately: Mapping[WhyNot, int] = dataclasses.field(default_factory=dict)
    """workers that asked for work lately and were refused the job, by why"""
    lacking: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """workers in the job's groups that lack a capability, by its name"""
    worktime: str = ""
    isolation: str | None = None
    wage: int | None = None
    """units per slice at which the least demanding of those workers would take it that ask for more"""
    holdings: tuple[Holding, ...] = ()
    """the first of them to expire"""
    failures: tuple[tuple[str, int], ...] = ()
    """reasons, the most frequent first"""
    competitors: int = 0
    """other jobs that wait for the same workers"""
    paying_more: int = 0
    last_error: str | None = None
    stop_code: str | None = None
    stop_reason: str | None = None
    other_worker_s: float = 0.0
    rejected_job_s: float = 0.0


def explain(facts: Facts) -> list[Finding]:
    """What decides about the job, the most decisive first. Never empty."""
    if facts.status in ENDED or facts.status is RunStatus.CORRUPTED:
        return [_ended(facts), *_doubted(facts), *_failing(facts)]
    standing = next(filter(None, (rule(facts) for rule in _STANDING)), None)
    found = [] if standing is None else [standing]
    if standing is None and facts.counts.waiting > 0:
        found += _waiting(facts)
    return [*found, *_out(facts), *_doubted(facts), *_failing(facts)] or [_unknown(facts)]


# -- the job itself ----------------------------------------------------------------------------------------------------


def _ended(facts: Facts) -> Finding:
    counts = facts.counts
    if facts.status is RunStatus.FINISHED:
        what = f"the job is finished: {counts.accepted} of {_slices(counts.total)} computed, {counts.failed} given up"
        return Finding("EFINISHED", what, "nothing: it is over", counts.accepted)
    why = f": {facts.stop_reason}" if facts.stop_reason else ""
    return Finding(facts.stop_code or "ECANCELLED", f"the job is {facts.status}{why}", "deploy it again", 1)


def _without_group(facts: Facts) -> Finding | None:
    if facts.local_exec:
        return None
    if not facts.admitted:
        what, remedy = "it was not put into a compute group yet", "put it into one: no worker sees it before"
    elif not facts.groups:
        what = "it is in no compute group any more: it was taken out of its last one, or that was deleted"
        remedy = "put it into another group, or cancel it"
    else:
        return None
    return Finding("ENOGROUP", what, remedy)


def _without_funds(facts: Facts) -> Finding | None:
    if facts.status is not RunStatus.PAUSED:
        return None
    lacks = f", and it lacks {to_dcc(facts.required)} DCC" if facts.required else ""
    cost = facts.price if facts.slice_cost is None else facts.slice_cost
    may = "costs" if cost == facts.price else "may cost"
    what = (
        f"it is paused for want of funds: account {facts.account} has {to_dcc(facts.available)} DCC, a slice {may} "
        f"{to_dcc(cost)} DCC{lacks}"
    )
    least = max(cost - facts.available, 0)
    whole = max(facts.required - facts.available, least)
    if not whole:
        return Finding("ENOFUNDS", what, f"{WAIT}: the account has enough, and the job goes on by itself")
    first = f", {to_dcc(least)} DCC for the next slice" if 0 < least < whole else ""
    return Finding("ENOFUNDS", what, f"bring {to_dcc(whole)} DCC to the account{first}; the job goes on by itself")


def _open(facts: Facts) -> Finding | None:
    counts = facts.counts
    if facts.closed or counts.settled < counts.total:
        return None
    what = f"its {_slices(counts.total)} are done, and it is open for more" if counts.total else "it has no slices yet"
    return Finding("EOPEN", what, "add slices, or close it (job.close)")


_STANDING: Final[tuple[Callable[[Facts], Finding | None], ...]] = (_without_group, _without_funds, _open)


# -- slices that wait for a worker -------------------------------------------------------------------------------------


def _waiting(facts: Facts) -> Iterator[Finding]:
    waiting = f"{_slices(facts.counts.waiting)} {'waits' if facts.counts.waiting == 1 else 'wait'}"
    if facts.present == 0:
        yield Finding("ENOWORKER", f"{waiting}, and no worker is present", "start a worker")
        return
    if facts.able == 0:
        order = {str(code): place for place, code in enumerate(_ORDER)}
        yield from sorted(_refused(facts, waiting), key=lambda one: order.get(str(one.code), -1))
        return
    if facts.estimating is not None and WhyNot.ESTIMATING in facts.lately:
        what = f"{waiting} for {facts.estimating} that are measured first, of which {facts.counts.leased} are out"
        yield Finding(WhyNot.ESTIMATING, what, f"{WAIT}, or deploy it with fewer estimationSlices", facts.estimating)
    for code, (what, remedy) in _PASSING.items():
        if workers := facts.lately.get(code, 0):
            yield Finding(code, f"{waiting}; {_are(workers, 'worker')} {what}", remedy.format(facts=facts), workers)
    if facts.competitors:
        more = f", {facts.paying_more} of them pay more" if facts.paying_more else ""
        what = f"{waiting}; {_jobs(facts.competitors)} for the same workers{more}"
        remedy = "start more workers, or offer more per slice" if facts.paying_more else "start more workers, or wait"
        yield Finding("ECOMPETING", what, remedy, facts.competitors)
    if not facts.lately and not facts.competitors and facts.counts.leased == 0:
        what = f"{waiting}, and {_workers(facts.able)} may have them but did not ask for work yet, or are busy"
        yield Finding("EBUSY", what, f"{WAIT}, or start more workers", facts.able)


#: What workers meet that may have the job, and that passes by itself: code → (what they are, remedy).
_PASSING: Final[Mapping[WhyNot, tuple[str, str]]] = {
    WhyNot.FAILED_HERE: (
        "kept from what failed there",
        "start another worker, or wait: after {facts.other_worker_s:g} s they may try again",
    ),
    WhyNot.HEARD: (
        "heard already on what is left",
        "start another worker, with another identity and payment address",
    ),
    WhyNot.BANNED: ("kept from it after several failures", "start another worker"),
    WhyNot.DISCRETE: ("kept from it, having had a slice of this discrete job", "start more workers"),
    WhyNot.GPU: ("without a free GPU", "start a worker with a GPU, or wait"),
    WhyNot.UNRESOLVED: ("fetching its code", WAIT),
    WhyNot.UNREADABLE: (
        "kept from it: its code cannot be read at the moment",
        "see that the store of big values answers (--blob-store); the Scheduler's log tells more",
    ),
}


def _refused(facts: Facts, waiting: str) -> Iterator[Finding]:
    """Nobody who is present may have the job: one finding per reason."""
    for group in facts.groups:
        if group.outgrown:
            what = f"compute group {group.label} does not take a job that may pay as much as this one"
            yield Finding(WhyNot.GROUP_FULL, what, "deploy it in parts, or have the group's maxTotalPayment raised")
        elif group.full:
            what = f"the limits of compute group {group.label} let no more workers in than the {group.workers} it has"
            yield Finding(WhyNot.GROUP_FULL, what, "have the group's limits raised", group.workers)
    terms = {"facts": facts, "lacking": _lacking(facts), "wage": _wage(facts), "groups": _groups(facts)}
    for code, workers in facts.reasons.items():
        phrase, remedy = _REFUSED.get(code, ("not for it", "see the code"))
        what = f"{waiting}; of {_workers(facts.present)} present {_are(workers)} {phrase.format(**terms)}"
        yield Finding(code, what, remedy.format(**terms), workers)


#: code → (what these workers are, the one change).
_REFUSED: Final[Mapping[WhyNot, tuple[str, str]]] = {
    WhyNot.CAPABILITY: (
        "lacking what it requires: {lacking}",
        "start a worker that has it, or require less (job.requirements)",
    ),
    WhyNot.WORKTIME: ("without worktime {facts.worktime}", "start a worker that has it, or use another worktime"),
    WhyNot.ISOLATION: (
        "isolating less than {facts.isolation}",
        "start a worker with that level of isolation, or ask for less",
    ),
    WhyNot.WAGE: ("asking for more than it pays", "deploy it with an offer of at least {wage} per slice"),
    WhyNot.REJECTED: (
        "refusing it",
        "ask one why (worker explain --job {facts.job_id}); a job that everybody refuses is stopped after "
        "{facts.rejected_job_s:g} s",
    ),
    WhyNot.GROUP: (
        "outside of its compute groups",
        "put it into a group that has workers, or let workers join {groups} (worker run --compute-group)",
    ),
    WhyNot.OTHER_JOBS: ("taking other jobs only (--job-id)", "start a worker without that restriction"),
    WhyNot.LOCAL: ("not its deployer's own (localExec)", "run it where it was deployed"),
    WhyNot.UNRESOLVED: ("fetching its code", WAIT),
}
#: The nearer a worker came to the job, the likelier it is the one that was meant.
_ORDER: Final = (
    WhyNot.UNRESOLVED, WhyNot.REJECTED, WhyNot.WAGE, WhyNot.ISOLATION, WhyNot.WORKTIME, WhyNot.CAPABILITY,
    WhyNot.GROUP_FULL, WhyNot.GROUP, WhyNot.OTHER_JOBS, WhyNot.LOCAL,
)  # fmt: skip


# -- what is out, and what failed --------------------------------------------------------------------------------------


def _out(facts: Facts) -> Iterator[Finding]:
    if not facts.counts.leased:
        return
    what = f"{_are(facts.counts.leased, 'slice')} with {_workers(_holders(facts))}"
    if facts.holdings:
        first = facts.holdings[0]
        what += (
            f"; the first lease (worker {first.worker}, {_slices(first.slices)} for {first.for_s:.0f} s) ends in "
            f"{max(first.expires_in_s, 0):.0f} s unless the worker is heard of"
        )
    yield Finding("ELEASED", what, f"{WAIT}: what a silent worker holds goes to others then", facts.counts.leased)


def _doubted(facts: Facts) -> Iterator[Finding]:
    """Where workers must agree: what waits for that, and who did not."""
    rule = facts.rule
    if rule is None:
        return
    if facts.counts.doubted:
        what = (
            f"{_slices(facts.counts.doubted)} computed by somebody, but not by enough: {rule.agree} workers must agree "
            f"that have different identities and payment addresses{_longest(facts.doubt, rule)}"
        )
        remedy = f"{WAIT}, or start workers with another identity and payment address"
        yield Finding(WhyNot.HEARD, what, remedy, facts.counts.doubted)
    if wrong := facts.opinions.get(State.WRONG, 0):
        results = "1 result was" if wrong == 1 else f"{wrong} results were"
        what = f"{results} shown wrong by others and not paid"
        yield Finding("EWRONG", what, "nothing: the right ones were accepted; ask which (job show --slice N)", wrong)
    if undecided := facts.opinions.get(State.UNDECIDED, 0):
        results = "1 result was" if undecided == 1 else f"{undecided} results were"
        what = f"{results} paid of slices on which workers did not agree"
        remedy = "make the work function give the same result everywhere, or let more workers be asked (redundancy.of)"
        yield Finding("ENOAGREEMENT", what, remedy, undecided)


def _longest(doubt: Doubt | None, rule: Rule) -> str:
    if doubt is None:
        return ""
    raised = f", since a result of it was suspicious: {doubt.quorum} must agree" if doubt.quorum > rule.agree else ""
    more = "1 more opinion" if doubt.missing == 1 else f"{doubt.missing} more opinions"
    return (
        f"; slice {doubt.number} has waited for {doubt.waited_s:.0f} s and needs {more}{raised}; if nobody takes it, "
        f"it is given up in {max(doubt.left_s, 0):.0f} s"
    )


def _failing(facts: Facts) -> Iterator[Finding]:
    counts = facts.counts
    if not facts.failures and not counts.failed:
        return
    often = "".join(f"; {times} times: {reason}" for reason, times in facts.failures[:3])
    what = f"{_are(counts.failed, 'slice')} given up{often}"
    yield Finding("EFAILING", what, "mend the work function, or what it fetches", counts.failed)


def _unknown(facts: Facts) -> Finding:
    return Finding("ENOTHING", "nothing stands in its way", WAIT)


def _holders(facts: Facts) -> int:
    return len({one.worker for one in facts.holdings}) or 1


def _lacking(facts: Facts) -> str:
    names = [f"{name} ({_workers(count)})" for name, count in facts.lacking.items() if count]
    return ", ".join(names) or "a capability"


def _wage(facts: Facts) -> str:
    """Three digits, rounded up: what is told is enough."""
    if facts.wage is None:
        return "more"
    step = 10 ** max(len(str(facts.wage)) - 3, 0)
    return f"{to_dcc(-(-facts.wage // step) * step)} DCC"


def _groups(facts: Facts) -> str:
    return ", ".join(group.label for group in facts.groups) or "one"


def _slices(number: int) -> str:
    return "1 slice" if number == 1 else f"{number} slices"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _are(number: int, noun: str = "") -> str:
    """`1 is`, `3 are`, or with a noun `1 worker is`, `3 workers are`."""
    if not noun:
        return f"{number} is" if number == 1 else f"{number} are"
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"


def _jobs(number: int) -> str:
    return "1 other job waits" if number == 1 else f"{number} other jobs wait"


def as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) | {"code": str(one.code)} for one in findings]
