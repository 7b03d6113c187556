"""Pure: what `worker top` shows, as lines of text for a given width, from the snapshots that a worker gave.

Rates are differences of the worker's counters over its own clock, so a late or missing snapshot falsifies nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from orchestrator.cli import phrases

_KEPT: Final = 300
_EARNING_S: Final = 300.0
_STATE_STYLES: Final = {
    "working": "bold green",
    "idle": "bold yellow",
    "paused": "bold magenta",
    "draining": "bold magenta",
    "stopping": "bold red",
    "no docker": "bold red",
    "retiring": "magenta",
    "opening": "cyan",
    "empty": "dim",
}
_LEVEL_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Sample:
    clock: float
    done: int
    cpu_s: float
    worker_cpu_s: float
    earned: decimal.Decimal
    slot_cpu_s: Mapping[int, float]


class History:
    """The last snapshots, from which rates follow. A worker that was restarted begins a new one."""

    def __init__(self) -> None:
        self.latest: Mapping[str, Any] | None = None
        self.explained: Mapping[str, Any] | None = None
        self.gone: str = ""
        """why there is no worker to ask; "" while there is one"""
        self._samples: collections.deque[_Sample] = collections.deque(maxlen=_KEPT)

    def add(self, status: Mapping[str, Any], explained: Mapping[str, Any] | None = None) -> None:
        before = self.latest
        if before is not None and (before["pid"], before["started_at"]) != (status["pid"], status["started_at"]):
            self._samples.clear()
        counts, usage = status["supervisor"]["counts"], status["usage"]
        self.latest, self.explained, self.gone = status, explained, ""
        self._samples.append(
            _Sample(
                clock=status["clock"],
                done=counts.get("slices completed", 0) + counts.get("slices that threw", 0),
                cpu_s=usage["sandboxes_cpu_s"],
                worker_cpu_s=usage["worker_cpu_s"],
                earned=decimal.Decimal(status["earned_dcc"]),
                slot_cpu_s={one["sandbox"]: one["cpu_s"] for one in status["slots"] if one["cpu_s"] is not None},
            )
        )

    def series(self, name: str) -> list[float]:
        """Growth per second of `done`, `cpu_s` or `worker_cpu_s`, between each two snapshots."""
        samples = list(self._samples)
        return [
            (getattr(new, name) - getattr(old, name)) / (new.clock - old.clock)
            for old, new in itertools.pairwise(samples)
            if new.clock > old.clock
        ]

    def rate(self, name: str) -> float | None:
        """The newest of `series`."""
        return next(iter(self.series(name)[-1:]), None)

    def slot_cpu(self, sandbox: int | None) -> float | None:
        """Cores that a sandbox used between the last two snapshots."""
        if sandbox is None or len(self._samples) < 2:
            return None
        old, new = self._samples[-2], self._samples[-1]
        if sandbox not in old.slot_cpu_s or sandbox not in new.slot_cpu_s or new.clock <= old.clock:
            return None
        return (new.slot_cpu_s[sandbox] - old.slot_cpu_s[sandbox]) / (new.clock - old.clock)

    def earned_per_hour(self) -> decimal.Decimal | None:
        """By the last five minutes."""
        if len(self._samples) < 2:
            return None
        new = self._samples[-1]
        old = next(one for one in self._samples if new.clock - one.clock <= _EARNING_S)
        if new.clock <= old.clock:
            return None
        return (new.earned - old.earned) / decimal.Decimal(new.clock - old.clock) * 3600


# -- the head ----------------------------------------------------------------------------------------------------------


def head(history: History, width: int) -> list[Text]:
    """Who and how: one line each, and two more when something is the matter."""
    status = history.latest
    if status is None:
        return _paragraph("no worker", history.gone, width) if history.gone else [Text(" connecting…")]
    lines = [_title(history, status, width), *_gauges(history, status, width)]
    if history.gone:
        return lines + _paragraph("why", history.gone, width)
    finding = history.explained["findings"][0] if history.explained is not None else None
    if finding is not None and finding["code"] != "EOK":
        lines += [*_paragraph("why", finding["what"], width), *_paragraph("change", finding["remedy"], width)]
    return lines


def _title(history: History, status: Mapping[str, Any], width: int) -> Text:
    if history.gone:
        text = f" GONE  {status['worker'] or 'the worker'} does not answer since {_clock(status['now'])}; trying again"
        return Text(phrases.plain(text, width).ljust(width), style="bold white on red")
    state = status["state"]
    up = phrases.span(status["now"] - status["started_at"])
    left = f" {status['worker'] or 'worker'}  "
    right = f"  up {up}  {_clock(status['now'])} "
    middle = phrases.plain(status["scheduler"], max(width - len(left) - len(state) - len(right) - 2, 0))
    gap = " " * max(width - len(left) - len(state) - len(middle) - len(right) - 2, 0)
    return Text.assemble(
        (left, "bold"), (state, _STATE_STYLES.get(state, "bold")), f"  {middle}", gap, (right, "dim"), no_wrap=True
    )


def _gauges(history: History, status: Mapping[str, Any], width: int) -> list[Text]:
    books, usage, pool = status["supervisor"], status["usage"], status["pool"]
    counts = books["counts"]
    wide = max(min(width - 56, 60), 8)
    done = counts.get("slices completed", 0) + counts.get("slices that threw", 0)
    worker = phrases.rate(history.rate("worker_cpu_s"))
    hour = history.earned_per_hour()
    return [
        _gauge(
            "slices/s",
            f"{phrases.rate(history.rate('done')):>5} ",
            (phrases.bars(history.series("done"), wide).ljust(wide), "green"),
            f"  {done} done  {counts.get('slices that threw', 0)} threw  {counts.get('slices returned', 0)} returned",
        ),
        _gauge(
            "cpu",
            f"{phrases.rate(history.rate('cpu_s')):>5} ",
            (phrases.bars(history.series("cpu_s"), wide).ljust(wide), "cyan"),
            f"  of {usage['cores']} cores  worker {worker}  load {usage['load']:.1f}",
        ),
        _gauge(
            "memory",
            f"{phrases.size(usage['sandboxes_memory_bytes'])} in sandboxes, "
            f"{phrases.size(usage['worker_memory_bytes'])} the worker, "
            f"{phrases.size(usage['memory_available_bytes'])} free",
        ),
        _gauge("pool", phrases.plain(_pool(pool), width - 11)),
        _gauge(
            "earned",
            f"{phrases.money(decimal.Decimal(status['earned_dcc']))} DCC"
            + ("" if hour is None else f", {phrases.rate(float(hour))} an hour by the last 5 min"),
        ),
    ]


def _pool(pool: Mapping[str, Any]) -> str:
    if not pool:
        return "not started"
    parts = [f"{pool['ready']} ready", f"{pool['starting']} starting", f"{pool['in_use']} of {pool['capacity']} in use"]
    if pool["hit_rate"] is not None:
        parts.append(f"{pool['hit_rate']:.0%} at once")
    if pool["hand_out_s"] is not None:
        parts.append(f"in {pool['hand_out_s']['p50'] * 1000:.2f} ms (p50)")
    return ", ".join(parts)


def _paragraph(name: str, text: str, width: int) -> list[Text]:
    """At most two lines."""
    room = max(width - 12, 20)
    lines = textwrap.wrap(phrases.plain(text, 2 * room), room)[:2]
    return [_gauge(name if number == 0 else "", line, style="yellow") for number, line in enumerate(lines)]


def _gauge(name: str, *parts: str | tuple[str, str], style: str = "") -> Text:
    return Text.assemble((f" {name:<9} ", "dim"), *parts, style=style, no_wrap=True)


# -- slots and jobs ----------------------------------------------------------------------------------------------------


def slots(history: History, width: int) -> list[Text]:
    """A line per place for a sandbox, below a line of titles."""
    title = f" {'box':>4} {'state':<9}{'for':>7}{'cpu':>6}{'memory':>9}{'slice':>8}{'queue':>6}{'done':>7}  job"
    lines = [Text(title.ljust(width), style="reverse", no_wrap=True)]
    for one in [] if history.latest is None else history.latest["slots"]:
        numbers = (
            f" {one['sandbox'] or '-':>4} ",
            (f"{one['state']:<9}", _STATE_STYLES.get(one["state"], "")),
            f"{'' if one['for_s'] is None else phrases.span(one['for_s']):>7}",
            f"{phrases.rate(history.slot_cpu(one['sandbox'])):>6}",
            f"{'-' if one['memory_bytes'] is None else phrases.size(one['memory_bytes']):>9}",
        )
        if one["why"]:  # then it has no slice, and the reason needs the room
            waits = f"  waits for {phrases.WAITS.get(one['why'], one['why'])}"
            lines.append(Text.assemble(*numbers, phrases.plain(waits, width - 37), no_wrap=True))
            continue
        at_work = f"{one['slice'] or '-':>8}{one['queued']:>6}{one['done']:>7}  "
        job = phrases.plain(_job(one["job"], one["job_name"]), width - 60)
        lines.append(Text.assemble(*numbers, at_work, job, no_wrap=True))
    return lines


def jobs(history: History, width: int) -> list[Text]:
    """A line per job of which something is held, below a line of titles."""
    title = f"{'to start':>9}{'in work':>9}{'unacked':>9}{'done':>8}{'s/slice':>9}{'earned':>12}  job"
    lines = [Text(title.ljust(width), style="reverse", no_wrap=True)]
    for job_id, one in ({} if history.latest is None else history.latest["supervisor"]["jobs"]).items():
        earned = phrases.money(decimal.Decimal(one["earned"]) / 10**18)
        numbers = (
            f"{one['unstarted']:>9}{one['queued']:>9}{one['reported']:>9}{one['completed']:>8}"
            f"{phrases.rate(one['slice_s']):>9}{earned:>12}  "
        )
        lines.append(Text(numbers + phrases.plain(_job(job_id, one["name"]), width - 58), no_wrap=True))
    return lines


def _job(job_id: str, name: str) -> str:
    return f"{name} {job_id}" if name else job_id


# -- the log -----------------------------------------------------------------------------------------------------------


def log_line(line: Mapping[str, Any], width: int) -> Text:
    """One record on one line."""
    known = ("time", "level", "event", "exception")
    more = " ".join(f"{name}={value}" for name, value in line.items() if name not in known)
    text = f"{line.get('event', '')} {more} {line.get('exception', '')}".strip()
    level = str(line.get("level", ""))
    return Text.assemble(
        (f" {_clock(line.get('time', 0.0))} ", "dim"),
        (f"{level:<8}", _LEVEL_STYLES.get(level, "")),
        phrases.plain(text, max(width - 18, 10)),
        no_wrap=True,
    )


def frame(history: History, log: Sequence[Mapping[str, Any]], width: int) -> list[Text]:
    """All of it, for a terminal that does not live."""
    return [
        *head(history, width),
        *slots(history, width),
        *jobs(history, width),
        Text(" log".ljust(width), style="reverse"),
        *(log_line(line, width) for line in log),
    ]


def _clock(timestamp: float) -> str:
    return datetime.datetime.fromtimestamp(timestamp).astimezone().strftime("%H:%M:%S")
