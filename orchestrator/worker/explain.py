"""Pure: why a worker has no work, or less than it could: from recorded refusals and statistics to findings.

A finding says what is the matter, how often and since when it was seen, and the one change that would help. They come
in the order in which they decide: what stops everything first, then what this worker refuses, then what others lack.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.worker.audit import Statistics
from orchestrator.worker.desk import DUPLICATE
from orchestrator.worker.refusals import Kind, Record
from orchestrator.worker.trusting import KeyChange

_FRESH_S: Final = 900.0
_FLAG: Final = re.compile(r"--allow-origin \S+")
_NO_CHANGE: Final = "nothing to change here"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """`count` is slices, requests or starts, whatever `what` speaks of. `since_s` and `last_s` are seconds ago.

    `blocking`: as long as it lasts, nothing at all is computed.
    """

    code: str
    what: str
    remedy: str
    count: int = 1
    since_s: float | None = None
    last_s: float | None = None
    blocking: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Circumstances:
    """What the shell knows beyond the supervisor's books. `clock` is the supervisor's, at this moment."""

    clock: float
    scheduler_url: str = ""
    image: str = ""
    memory_mib: int = 0
    memory_reserve_mib: int = 0
    memory_bytes: int | None = None
    """of the machine; None when that is not known"""
    memory_available: int | None = None
    cores: int = 1
    sandboxes_by_rule: bool = False
    """whether nobody said how many sandboxes there may be"""
    warm: int | None = None
    """how many sandboxes are to be ready, if somebody said so"""
    job_ids: Sequence[str] = ()
    groups: Sequence[str] = ()
    public_group: bool = True
    connected: bool = True
    """whether the Scheduler's configuration has been read"""
    ready: bool = True
    """whether a first sandbox has described itself"""
    trouble: str = ""
    """why the connection to the Scheduler cannot be made again; "" while there is one"""
    key_change: KeyChange | None = None
    """that somebody answers for the Scheduler whose key is not the one that it had"""
    outbox: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """statistics of the results that are not acknowledged"""
    state_dir: str = ""
    pool: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    docker: Mapping[str, str] | None = None
    """{reason, message, remedy} while the container engine cannot be used"""


def explain(books: Statistics, about: Circumstances) -> list[Finding]:
    """Findings, the most decisive first; never empty."""
    findings = [*_stopped(books, about), *_paused(books, about), *_engine(books, about), *_scheduler(books, about)]
    if not findings and not any(slot.why for slot in books.slots):
        old = _refused(books, about, old=True)
        return [_fine(books), *_refused(books, about), *_outbox(about), *old, *_memory(books, about)]
    idle = [] if findings else list(_idle(books, about))
    refused = _refused(books, about)
    return [*findings, *refused, *idle, *_outbox(about), *_refused(books, about, old=True), *_memory(books, about)]


# -- what stops everything ---------------------------------------------------------------------------------------------


def _stopped(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    if books.stopping is not None:
        yield Finding("ESTOPPING", "the worker was told to stop", "start it again when it has ended", blocking=True)
    elif books.draining:
        yield Finding(
            "EDRAINING",
            f"the worker is draining: it takes no new work, and ends when its {books.held} slices are delivered",
            "start it again when it has ended",
            max(books.held, 1),
            blocking=True,
        )


def _paused(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    for pause in books.pauses:
        left = f" and finishes the {books.held} slices that it holds" if books.held else ""
        yield Finding(
            "EPAUSED",
            f"the worker is paused by {pause.source}: {pause.reason}; it takes no new work{left}",
            _HOW_TO_RESUME.get(pause.source, "it goes on by itself"),
            max(books.held, 1),
            since_s=max(about.clock - pause.since, 0.0),
            blocking=not books.held,
        )


_HOW_TO_RESUME: Final = {
    "command": "`dcp-orchestrator worker resume` lets it go on",
    "schedule": "it goes on by itself when the quiet hours end; --quiet-hours says when they are",
    "load": "it goes on by itself when the machine is calm; to be less shy, raise --busy-cpu and its sisters",
}


def _engine(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    """Nothing runs without sandboxes."""
    pool = about.pool
    if about.docker is not None:
        reason = about.docker.get("reason", "")
        code = "EIMAGE" if reason == "image-missing" else "ENODOCKER"
        yield Finding(code, about.docker["message"], about.docker["remedy"], blocking=True)
    elif pool.get("failure") is not None:
        nothing = not pool.get("ready") and not pool.get("in_use")
        yield Finding(
            "ESANDBOXSTART",
            f"sandboxes fail to start: {pool['failure']}",
            f"try it by hand: `docker run --rm {about.image}`; the log has every failure (`sandbox_start_failed`)",
            int(pool.get("failed") or 1),
            blocking=nothing,
        )
    elif not about.ready:
        starting = pool.get("starting") or 0
        yield Finding(
            "ESTARTING",
            f"the first sandbox is still starting ({starting} under way)" if starting else "the worker is starting",
            "wait a few seconds",
            max(starting, 1),
            blocking=True,
        )
    elif books.runtime:
        yield Finding("ENOSANDBOX", books.runtime, "see the log", blocking=True)


def _scheduler(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    where = about.scheduler_url
    if not about.connected:
        yield Finding(
            "ENOSCHEDULER",
            f"no Scheduler answers at {where}",
            "start it, or name the right one with --scheduler",
            blocking=True,
        )
    elif about.key_change is not None:
        yield Finding(
            "ESCHEDULERKEY",
            about.key_change.what,
            about.key_change.remedy,
            max(books.request_failures, 1),
            blocking=not books.sandboxes_busy,
        )
    elif books.request_failures or about.trouble:
        last = max(
            (one for one in books.refusals if one.kind is Kind.REQUEST and one.code != "ENOWORK"),
            key=lambda one: one.last_at,
            default=None,
        )
        detail = about.trouble or ("" if last is None or not books.request_failures else last.detail or last.code)
        yield Finding(
            "ENOSCHEDULER",
            f"the Scheduler at {where} does not answer: {detail}",
            "look whether it runs and can be reached; the worker goes on trying by itself",
            max(books.request_failures, 1),
            **_times(about, [last] if last is not None else []),
            blocking=not books.sandboxes_busy,
        )
    idle = [slot for slot in books.slots if slot.why == "EBACKLOG"]
    if idle:
        yield Finding(
            "EBACKLOG",
            f"{books.reported} results wait for the Scheduler's acknowledgement, and no more may pile up",
            f"look why the Scheduler at {where} takes no results: work goes on as soon as it does",
            max(books.reported, 1),
            blocking=True,
        )


# -- what this worker refuses ------------------------------------------------------------------------------------------

#: code → (what, about {jobs}; the one change)
_REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "EWORKTIME": ("{jobs} need a worktime that the sandboxes lack", "use an Evaluator image that has it (--image)"),
    "ECAPABILITY": ("{jobs} need a capability that the sandboxes lack", "use an Evaluator image that has it (--image)"),
    "EWAGE": ("{jobs} pay less than the minimum wage", "lower the minimum wage (--minimum-wage-cpu and its sisters)"),
    "EJOBNOTWANTED": ("{jobs} are not among those this worker takes", "name them too, or drop --job-id"),
    "EJOBFILTER": ("{jobs} are kept out by the job filter", "change the job filter"),
    "ECOMPUTEGROUP": ("{jobs} came through a compute group that this worker is not in", "join it (--compute-group)"),
    "EJOBFETCH": ("code or arguments of {jobs} could not be fetched", "see whether the URL below answers"),
    "ESLICEFETCH": ("data of {jobs} could not be fetched", "see whether the URL below answers"),
    "EFETCH": ("what {jobs} fetch is missing, too large or malformed", "the job's owner has to mend its URL"),
    "ENOMODULE": ("{jobs} need a module that the package manager lacks", "publish the module"),
    "EMODULETOOBIG": ("{jobs} need a module that is too large", "the job's owner has to use a smaller module"),
    "EMODULEFETCH": ("modules of {jobs} could not be fetched", "look whether the package manager runs"),
    "EPERM_ORIGIN": ("{jobs} fetch from where no job may", "the job's owner has to mend its URL"),
    "EBADDATUM": ("data of {jobs} cannot be decoded", "the job's owner has to mend its data"),
    "EASSIGN": ("{jobs} have code that cannot be loaded", "the job's owner has to mend the work function"),
    "EWORKREJECT": ("the work function of {jobs} rejected this worker", "nothing here: the job's own choice"),
    "ENOMEMORY": ("slices of {jobs} ran out of memory", "give sandboxes more memory (--memory)"),
    "ENOPROGRESS": ("slices of {jobs} made no progress in time", "the job's owner has to call progress() more often"),
    "ESLICETOOSLOW": ("slices of {jobs} took longer than allowed", "raise the limit (--slice-timeout)"),
    "EFLOOD": ("slices of {jobs} wrote more than allowed", "the job's owner has to write less"),
    "ESANDBOXEXIT": ("work functions of {jobs} ended their sandbox", "the job's owner has to mend the work function"),
    "ESANDBOXPROTOCOL": ("work functions of {jobs} broke the rules of the sandbox", "reject the job"),
    "ESANDBOXKILLED": ("sandboxes of {jobs} were killed from outside", "find out who kills containers here"),
    "EBADTASK": ("the Scheduler sent {jobs} that make no sense", "use a Scheduler of the same version"),
    "ENODATUM": ("{jobs} have slices outside of their range", "the job's owner has to mend its input set"),
    "ELEASE": (
        "results of {jobs} came when their lease had ended",
        "see why they were late: --prefetch holds less ahead",
    ),
}
#: Said by other findings, or of no interest: the worker was stopping, Docker was away.
_SILENT: Final = frozenset({"EWORKERSTOPPING", "EPAUSED", "ENOSANDBOX", DUPLICATE, "SchedMsg", "ESTOPPED"})


def _refused(books: Statistics, about: Circumstances, *, old: bool = False) -> list[Finding]:
    """Slices that went back lately, or whose jobs wait at the Scheduler for somebody else, by reason; the most first.

    `old`: instead those of jobs that are refused since long, of which nobody says whether there are any left.
    """
    by_reason: dict[tuple[str, str], list[Record]] = collections.defaultdict(list)
    for record in books.refusals:
        if record.kind is not Kind.SLICE or record.code in _SILENT:
            continue
        refused = record.job in books.rejected_jobs
        current = about.clock - record.last_at <= _FRESH_S or (refused and "EREJECTED" in books.no_work)
        if refused and not current if old else current:
            flag = _FLAG.search(record.detail)
            by_reason[record.code, flag[0] if flag else ""].append(record)
    findings = [_refusal(code, flag, records, books, about) for (code, flag), records in by_reason.items()]
    return sorted(findings, key=lambda finding: -finding.count)


def _refusal(code: str, flag: str, records: list[Record], books: Statistics, about: Circumstances) -> Finding:
    records.sort(key=lambda record: -record.last_at)
    count = sum(record.count for record in records)
    jobs = _jobs([record.job for record in records], books)
    detail = next((record.detail for record in records if record.detail), "")
    if flag:
        where = flag.rpartition("=")[2].rpartition(" ")[2]
        inside = " leads to " in detail  # an address that is not for everybody, though its name is
        what = f"{jobs} may not fetch: {detail.partition(';')[0]}" if inside else f"{jobs} may not fetch from {where}"
        remedy = f"if you trust it: {flag}"
    else:
        template, remedy = _REASONS.get(code, (f"slices of {{jobs}} went back with {code}", "see the log"))
        what = template.format(jobs=jobs)
        again = [books.job_pauses[one.job] - about.clock for one in records if one.job in books.job_pauses]
        if again and max(again) > 0:
            what += f" (tried again in {max(again):.0f} s)"
    if detail and not flag:
        what += f": {detail}"
    if code == "ENOMEMORY" and about.memory_mib:
        remedy += f", now {about.memory_mib} MiB"
    return Finding(code, what, remedy, count, **_times(about, records))


def _jobs(ids: Sequence[str], books: Statistics) -> str:
    """Up to three jobs by name."""
    different = list(dict.fromkeys(ids))
    named = [
        f"{one} ({books.jobs[one].name})" if one in books.jobs and books.jobs[one].name else one for one in different
    ]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"job{'s' if len(named) > 1 else ''} {', '.join(named[:3])}{more}"


# -- why places stand empty --------------------------------------------------------------------------------------------


def _idle(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    waits = collections.Counter(slot.why for slot in books.slots if slot.why)
    jobs = _jobs([job_id for job_id, one in books.jobs.items() if one.unstarted and not one.fetched], books)
    for why, places in waits.most_common():
        of = f"{places} of {len(books.slots)} places"
        times = _times(about, [one for one in books.refusals if one.kind is Kind.IDLE and one.code == why])
        match why:
            case "EJOBCODE":
                yield Finding(why, f"{of} wait for the code and arguments of {jobs}", _WAIT_FETCH, places, **times)
            case "EDATA":
                yield Finding(why, f"{of} wait for input data that is being fetched", _WAIT_FETCH, places, **times)
            case "EOPENING":
                yield Finding(
                    why, f"{of} are being given a sandbox", "wait a moment; --warm keeps more ready", places, **times
                )
            case "EHELD":
                yield Finding(
                    why, f"{of} are empty though {books.held} slices are held", "see the log", places, **times
                )
            case "EASKING":
                yield Finding(why, f"{of} are empty: {_asked(books, about)}", "wait a moment", places, **times)
            case "ENOWORK":
                yield _no_work(books, about, of)


_WAIT_FETCH: Final = "wait; if it lasts, the place it comes from is slow"


def _asked(books: Statistics, about: Circumstances) -> str:
    if books.asked_at is None:
        return "the Scheduler was not asked for work yet"
    waited = max(about.clock - books.asked_at, 0.0)
    return f"the Scheduler was asked {waited:.0f} s ago and has not leased any slices yet"


def _no_work(books: Statistics, about: Circumstances, of: str) -> Finding:
    records = [one for one in books.refusals if one.kind is Kind.REQUEST and one.code == "ENOWORK"]
    where = f"the Scheduler at {about.scheduler_url}"
    elsewhere = [(code, *_ELSEWHERE.get(code, (f"refused with {code}", "see what the Scheduler means by it")))
                 for code in sorted(books.no_work, key=_elsewhere_order)]  # fmt: skip
    if elsewhere:
        reasons = ", ".join(f"{books.no_work[code]} {what}" for code, what, _remedy in elsewhere)
        what = f"{of} are empty: {where} has work, but none of it is for this worker: jobs {reasons}"
        remedy = elsewhere[0][2]
    elif about.job_ids:
        what = f"{of} are empty: {where} has no work of the jobs that this worker takes"
        remedy = f"it takes only the jobs of --job-id ({len(about.job_ids)}): drop the flag to take others"
    elif not about.public_group:
        groups = ", ".join(about.groups) or "none"
        what = f"{of} are empty: {where} has no work for the compute groups of this worker ({groups})"
        remedy = "add --public-group, or join more groups with --compute-group"
    else:
        refused = f" other than the {len(books.rejected_jobs)} jobs that it refuses" if books.rejected_jobs else ""
        what = f"{of} are empty: {where} has no work for this worker{refused}"
        remedy = f"{_NO_CHANGE}: work comes when a job is deployed"
    return Finding("ENOWORK", what, remedy, sum(one.count for one in records) or 1, **_times(about, records))


#: What our Scheduler says of jobs that wait there: code → (what follows their number, the one change). In the order in
#: which a change can help.
_ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "ECOMPUTEGROUP": (
        "in compute groups that it is not in",
        "join one with --compute-group, or the public one with --public-group",
    ),
    "EGROUPLIMIT": ("in compute groups that have no room for it", "have their limits raised by their owners"),
    "EJOBNOTWANTED": ("not named by --job-id", "name them too, or drop --job-id"),
    "ECAPABILITY": ("that need what the sandboxes lack", "use an Evaluator image that has it (--image)"),
    "EWORKTIME": ("that need a worktime which the sandboxes lack", "use an Evaluator image that has it (--image)"),
    "EISOLATION": (
        "that want stronger walls than its sandboxes have",
        "use a stronger runtime (docs/isolation.md)",
    ),
    "EWAGE": ("that pay less than its minimum wage", "lower the minimum wage (--minimum-wage-cpu and its sisters)"),
    "EGPUBUSY": ("that need a GPU, of which it has none free", "wait, or offer a GPU"),
    "EBANNED": ("of which several slices failed here", "see in the log why they failed"),
    "EDISCRETE": ("of which each worker gets one slice, as it did", "start another worker, or wait"),
    "EREJECTED": (
        "that it refused before",
        "change that for which it refused them: see the other findings, or the log",
    ),
    "EFAILEDHERE": ("whose slices failed here and wait for another worker", "start another worker, or wait"),
    "EESTIMATING": ("that are measured by their first slices", "wait: when these are done, the others follow"),
    "EUNRESOLVED": ("whose code it is fetching", "wait a moment"),
    "ELOCALEXEC": ("for their deployers' own workers", f"{_NO_CHANGE}: work comes when a job is deployed"),
}


def _elsewhere_order(code: str) -> int:
    known = list(_ELSEWHERE)
    return known.index(code) if code in known else len(known)


def _outbox(about: Circumstances) -> Iterator[Finding]:
    """Finished results that would not outlive the worker."""
    trouble, unsafe = about.outbox.get("degraded") or "", int(about.outbox.get("only_in_memory") or 0)
    if not trouble:
        return
    folder = about.state_dir or "the state folder"
    remedy = f"see to it that {folder} can be written and its disk has room; it is tried again by itself"
    if "outbox_bytes" in trouble:
        remedy = "let it have more of the disk (--outbox-bytes)"
    yield Finding(
        "EOUTBOX",
        f"finished results are kept in memory only, and {unsafe} would be lost with the worker: {trouble}",
        remedy,
        max(unsafe, 1),
    )


def _memory(books: Statistics, about: Circumstances) -> Iterator[Finding]:
    """What more memory would allow."""
    if about.memory_bytes is None or not about.memory_mib:
        return
    total, available = about.memory_bytes >> 20, (about.memory_available or 0) >> 20
    if about.sandboxes_by_rule and books.capacity < about.cores:
        yield Finding(
            "EMEMORYBOUND",
            f"only {books.capacity} of {about.cores} cores get a sandbox: {total} MiB of memory hold no more of "
            f"{about.memory_mib} MiB each",
            "give each less (--memory), or say how many there may be all the same (--sandboxes)",
            about.cores - books.capacity,
        )
    short = available < about.memory_mib + about.memory_reserve_mib
    if short and about.pool.get("warm") == 0 and about.warm != 0:
        yield Finding(
            "EMEMORYSHORT",
            f"no sandboxes are started ahead of need: {available} MiB of memory are free, and "
            f"{about.memory_reserve_mib} MiB are kept for others",
            "end something that takes memory, or lower --memory or --memory-reserve-mib",
        )


def _fine(books: Statistics) -> Finding:
    places = len(books.slots)
    what = f"all {places} places are at work" if places > 1 else "its one place is at work"
    return Finding("EOK", what, _NO_CHANGE, books.sandboxes_busy)


def _times(about: Circumstances, records: Sequence[Record]) -> dict[str, Any]:
    """When the first and the last of them were seen, seconds ago."""
    if not records:
        return {}
    return {
        "since_s": max(about.clock - min(one.first_at for one in records), 0.0),
        "last_s": max(about.clock - max(one.last_at for one in records), 0.0),
    }
