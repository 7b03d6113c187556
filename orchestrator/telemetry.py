"""Every metric of the system, in one place: name, unit, meaning, labels. Parts import the instruments they feed.

The text endpoint, the OTLP export, `docs/observability.md` and the dashboard are made from this list. Recording is an
addition in memory, below a microsecond, whether somebody listens or not; OpenTelemetry's own instruments cost ten.
`exporting` turns the totals into OpenTelemetry's data when they are asked for.

Labels have few values: never a job, a slice or a sandbox. What goes beyond `MOST_SERIES` of a metric is counted under
`other`. Attributes are given in the order in which the instrument declares its labels.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MOST_SERIES: Final = 100
OTHER: Final = "other"
_LONGEST_LABEL: Final = 60

STARTED_NS: Final = time.time_ns()
"""When counting began, Unix time in nanoseconds."""

Labels = tuple[Any, ...]


class Meter:
    """One metric. `unit` is UCUM (`s`, `By`, `{slice}`); `labels` are the names of its attributes, in order."""

    kind = "meter"

    def __init__(self, name: str, *, unit: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = tuple(labels)
        METERS.append(self)

    def _room(self, key: Labels, series: Mapping[Labels, Any]) -> Labels:
        """The key under which a new series may be kept."""
        if len(key) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {key}")
        if len(series) >= MOST_SERIES:
            return (OTHER,) * len(self.labels)
        return key


class Scalar(Meter):
    """One number per set of labels."""

    def __init__(self, name: str, *, unit: str, description: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, unit=unit, description=description, labels=labels)
        self._values: dict[Labels, float] = {}

    def _put(self, value: float, attributes: Mapping[str, Any] | None) -> None:
        key = () if attributes is None else tuple(attributes.values())
        if key not in self._values:
            key = self._room(key, self._values)
        self._values[key] = value

    def series(self) -> Iterator[tuple[dict[str, str], float]]:
        """(labels, value) of each; may be asked from any thread."""
        for key, value in dict(self._values).items():
            yield _labelled(self.labels, key), value


class Counter(Scalar):
    """Only grows."""

    kind = "counter"

    def add(self, amount: float, attributes: Mapping[str, Any] | None = None) -> None:
        key = () if attributes is None else tuple(attributes.values())
        try:
            self._values[key] += amount
        except KeyError:
            key = self._room(key, self._values)
            self._values[key] = self._values.get(key, 0) + amount

    def set_total(self, total: float, attributes: Mapping[str, Any] | None = None) -> None:
        """For totals that somebody else counts."""
        self._put(total, attributes)

    @property
    def total(self) -> float:
        """Over all labels."""
        return sum(self._values.values())


class Gauge(Scalar):
    """What is at this moment."""

    kind = "gauge"

    def set(self, value: float, attributes: Mapping[str, Any] | None = None) -> None:
        self._put(value, attributes)

    def clear(self) -> None:
        """Nothing is known any more."""
        self._values.clear()


class Histogram(Meter):
    """How often values fell below each of `bounds`; the last bucket has no bound."""

    kind = "histogram"

    def __init__(
        self, name: str, *, unit: str, description: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        super().__init__(name, unit=unit, description=description, labels=labels)
        self.bounds = tuple(bounds)
        self._series: dict[Labels, list[float]] = {}  # counts of the buckets, then the sum

    def record(self, value: float, attributes: Mapping[str, Any] | None = None) -> None:
        key = () if attributes is None else tuple(attributes.values())
        row = self._series.get(key)
        if row is None:
            row = self._series.setdefault(self._room(key, self._series), [0] * (len(self.bounds) + 2))
        row[bisect.bisect_left(self.bounds, value)] += 1
        row[-1] += value

    def series(self) -> Iterator[tuple[dict[str, str], list[int], float]]:
        """(labels, counts of the buckets, sum) of each; may be asked from any thread."""
        for key, row in dict(self._series).items():
            counts = row[:]
            total = counts.pop()
            yield _labelled(self.labels, key), [int(count) for count in counts], total


def _labelled(names: tuple[str, ...], key: Labels) -> dict[str, str]:
    return {name: _text(value) for name, value in zip(names, key, strict=True)}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)[:_LONGEST_LABEL]


METERS: Final[list[Meter]] = []
"""All of them, in the order of this file."""

_TIMES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_SIZES: Final = tuple(2.0**power for power in range(20, 36))

# slices
slices_ended = Counter(
    "dcp.worker.slices", unit="{slice}", description="slices that left a sandbox, by outcome", labels=["outcome"]
)
slice_cpu_time = Counter(
    "dcp.worker.slice.cpu_time", unit="s", description="CPU time that the kernel charged to slices"
)
slice_wall_time = Histogram(
    "dcp.worker.slice.wall_time", unit="s", description="wall time of a slice inside its sandbox", bounds=_TIMES
)
slice_bytes = Counter(
    "dcp.worker.slice.io", unit="By", description="bytes that slices read and wrote", labels=["direction"]
)
slice_peak_memory = Histogram(
    "dcp.worker.slice.peak_memory", unit="By", description="most memory of a sandbox during a slice", bounds=_SIZES
)
slices_received = Counter("dcp.worker.slices.received", unit="{slice}", description="slices that were taken on")
slices_returned = Counter(
    "dcp.worker.slices.returned", unit="{slice}", description="slices that were given back, by reason", labels=["code"]
)
slices_held = Gauge(
    "dcp.worker.slices.held",
    unit="{slice}",
    description="slices now: to be started, in sandboxes, reported and not acknowledged",
    labels=["place"],
)
results = Counter(
    "dcp.worker.results",
    unit="{slice}",
    description="results by the Scheduler's verdict; the code says why one was refused",
    labels=["verdict", "code"],
)
earnings = Counter("dcp.worker.earnings", unit="{DCC}", description="DCC that accepted results were paid with")
jobs = Gauge("dcp.worker.jobs", unit="{job}", description="jobs of which something is held")
jobs_rejected = Gauge(
    "dcp.worker.jobs.rejected",
    unit="{job}",
    description="jobs that this worker does not take, by reason",
    labels=["code"],
)

# asking for work
requests = Counter("dcp.worker.requests", unit="{request}", description="requests for work and signs of life")
requests_empty = Counter(
    "dcp.worker.requests.empty", unit="{request}", description="answers that brought nothing to do"
)
requests_failed = Counter(
    "dcp.worker.requests.failed", unit="{request}", description="requests that were not answered, or refused"
)
answer_age = Gauge(
    "dcp.worker.scheduler.answer_age", unit="s", description="time since the Scheduler last answered a request"
)
outbox = Gauge(
    "dcp.worker.outbox", unit="{report}", description="results, returns and events that are not acknowledged"
)
outbox_size = Gauge(
    "dcp.worker.outbox.size", unit="{character}", description="characters of results that are not acknowledged"
)
outbox_degraded = Gauge(
    "dcp.worker.outbox.degraded", unit="", description="1 while the disk takes no finished results, else 0"
)
outbox_unsafe = Gauge(
    "dcp.worker.outbox.unsafe",
    unit="{result}",
    description="finished results that are not acknowledged and would be lost with the worker",
)
resent = Counter(
    "dcp.worker.reports.resent", unit="{report}", description="reports sent again, since the connection was lost"
)
dropped_events = Counter(
    "dcp.worker.events.dropped", unit="{event}", description="console lines and events of jobs that were dropped"
)

# the worker itself
ready = Gauge("dcp.worker.ready", unit="", description="1 while /readyz says so, else 0")
paused = Gauge("dcp.worker.paused", unit="", description="1 for each source that holds the worker", labels=["source"])
docker_available = Gauge("dcp.worker.docker.available", unit="", description="1 while sandboxes can be had, else 0")
docker_losses = Counter("dcp.worker.docker.losses", unit="{loss}", description="times that the Docker Engine went away")
slots = Gauge(
    "dcp.worker.slots",
    unit="{sandbox}",
    description="places for sandboxes by what they do: working, idle, opening, retiring, empty",
    labels=["state"],
)
idle_time = Counter(
    "dcp.worker.idle_time", unit="s", description="time that places had no work, summed, by reason", labels=["code"]
)
sandboxes_cpu_time = Counter(
    "dcp.worker.sandboxes.cpu_time",
    unit="s",
    description="CPU time that the kernel charged to all sandboxes; what no slice was charged is overhead",
)
sandboxes_memory = Gauge("dcp.worker.sandboxes.memory", unit="By", description="memory of the sandboxes of now")
process_cpu_time = Counter(
    "dcp.worker.process.cpu_time", unit="s", description="CPU time of the Worker itself, sandboxes not included"
)
process_memory = Gauge("dcp.worker.process.memory", unit="By", description="memory of the Worker itself (resident set)")
build_info = Gauge(
    "dcp.worker.build_info", unit="", description="always 1; what runs is in the labels", labels=["version", "python"]
)

# sandboxes
sandboxes_ended = Counter(
    "dcp.worker.sandboxes", unit="{sandbox}", description="sandboxes that ended, by cause of death", labels=["cause"]
)
containers_reaped = Counter(
    "dcp.worker.containers.reaped", unit="{container}", description="containers without an owner that were removed"
)

# metering and receipts
sandbox_overhead = Counter(
    "dcp.worker.sandboxes.overhead",
    unit="s",
    description="CPU time of ended sandboxes that no slice was charged for: start, assign, idle, unanswered",
    labels=["phase"],
)
metering_errors = Counter(
    "dcp.worker.metering.errors",
    unit="{sandbox}",
    description="ended sandboxes whose slices and overhead do not sum to what the kernel charged",
)
receipts_issued = Counter("dcp.worker.receipts", unit="{receipt}", description="receipts signed for results")
receipts_lost = Counter("dcp.worker.receipts.lost", unit="{receipt}", description="receipts that the disk did not take")

# the pool of sandboxes
sandbox_hand_out_time = Histogram(
    "dcp.worker.pool.hand_out_time",
    unit="s",
    description="time from the wish for a sandbox until it was handed out; `hit` when one was ready",
    bounds=[0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    labels=["hit"],
)
sandbox_start_time = Histogram(
    "dcp.worker.pool.start_time",
    unit="s",
    description="time from the creation of a container until its sandbox had described itself",
    bounds=[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30],
)
pool_sandboxes = Gauge(
    "dcp.worker.pool.sandboxes",
    unit="{sandbox}",
    description="sandboxes now: ready, in use, starting",
    labels=["state"],
)
pool_starts_failed = Counter(
    "dcp.worker.pool.starts_failed", unit="{sandbox}", description="sandboxes that did not start"
)
sandboxes_recycled = Counter(
    "dcp.worker.sandboxes.recycled",
    unit="{sandbox}",
    description="sandboxes replaced at a limit, by the limit",
    labels=["limit"],
)

# fetching
fetches = Counter(
    "dcp.worker.fetches",
    unit="{fetch}",
    description="requests made for jobs, by purpose and outcome",
    labels=["purpose", "outcome"],
)
fetched_bytes = Counter(
    "dcp.worker.fetched",
    unit="By",
    description="bytes fetched for jobs after decompression, by purpose",
    labels=["purpose"],
)
cache_hits = Counter("dcp.worker.cache.hits", unit="{fetch}", description="artifacts that the cache had")
cache_entries = Gauge("dcp.worker.cache.entries", unit="{entry}", description="artifacts in the cache")
cache_size = Gauge("dcp.worker.cache.size", unit="By", description="size of the artifacts in the cache")

# the Scheduler
results_received = Counter(
    "dcp.scheduler.results",
    unit="{slice}",
    description="results that workers submitted, by verdict",
    labels=["verdict"],
)
slices_leased = Counter("dcp.scheduler.leases", unit="{slice}", description="slices handed out to workers")
slices_leased_again = Counter(
    "dcp.scheduler.leases.late", unit="{slice}", description="slices handed out once more, since another worker is late"
)
settling_time = Histogram(
    "dcp.scheduler.settling_time",
    unit="s",
    description="time in which results that came together were judged, paid and committed",
    bounds=_TIMES,
)
request_time = Histogram(
    "dcp.scheduler.request_time",
    unit="s",
    description="time from a request until its answer was made, by service; one for work rests until there is some",
    bounds=_TIMES,
    labels=["service"],
)
requests_answered_with_errors = Counter(
    "dcp.scheduler.requests.failed",
    unit="{request}",
    description="requests that a service answered with an error, by its code",
    labels=["code"],
)
transaction_time = Histogram(
    "dcp.scheduler.transaction_time",
    unit="s",
    description="time of a database transaction, the wait for a connection included",
    bounds=_TIMES,
    labels=["kind"],
)
workers_present = Gauge("dcp.scheduler.workers", unit="{worker}", description="workers that were heard of lately")
cores_present = Gauge("dcp.scheduler.workers.cores", unit="{core}", description="cores that these offer")
jobs_with_work = Gauge("dcp.scheduler.jobs.waiting", unit="{job}", description="jobs that have slices to hand out")
requests_waiting = Gauge(
    "dcp.scheduler.requests.waiting", unit="{request}", description="requests for work that wait for some"
)
loop_lag = Gauge(
    "dcp.scheduler.lag", unit="s", description="how late a timer was: what everything in the process waits for"
)
scheduler_cpu_time = Counter("dcp.scheduler.process.cpu_time", unit="s", description="CPU time of the Scheduler")
scheduler_memory = Gauge(
    "dcp.scheduler.process.memory", unit="By", description="memory of the Scheduler (resident set)"
)
connections_made = Counter(
    "dcp.scheduler.connections", unit="{connection}", description="network connections that were let in"
)
connections_refused = Counter(
    "dcp.scheduler.connections.refused",
    unit="{connection}",
    description="network connections, and sockets on them, that were refused with 429, by reason",
    labels=["reason"],
)
connections_cut = Counter(
    "dcp.scheduler.connections.cut",
    unit="{connection}",
    description="network connections that were cut off for what their peers did, by reason",
    labels=["reason"],
)
connections_open = Gauge("dcp.scheduler.connections.open", unit="{connection}", description="network connections now")
sessions = Gauge(
    "dcp.scheduler.sessions",
    unit="{session}",
    description="sessions now, with a connection and without",
    labels=["state"],
)
bytes_received = Counter("dcp.scheduler.received", unit="By", description="bytes that were read from connections")
messages_read = Counter("dcp.scheduler.messages", unit="{message}", description="messages and parts of messages read")
messages_dropped = Counter(
    "dcp.scheduler.messages.dropped",
    unit="{message}",
    description="messages that were read and dropped, with the socket that brought them, by reason",
    labels=["reason"],
)
requests_refused = Counter(
    "dcp.scheduler.requests.refused",
    unit="{request}",
    description="requests that were answered with EBUSY, without being looked at, by reason",
    labels=["reason"],
)
offences = Counter(
    "dcp.scheduler.offences",
    unit="{offence}",
    description="what no honest peer does, by what it is held against: the address, or the identity that signed it",
    labels=["of"],
)
bans_made = Counter("dcp.scheduler.bans", unit="{ban}", description="bans that began here", labels=["of"])
bans_now = Gauge("dcp.scheduler.bans.now", unit="{ban}", description="who is banned now", labels=["of"])
characters_held = Gauge(
    "dcp.scheduler.held",
    unit="{character}",
    description="characters of unfinished messages, requests without answer and answers not taken",
)

# the Bank
bank_transfers = Counter(
    "dcp.bank.transfers",
    unit="{transfer}",
    description="requests that moved money, by what they did: posted, pending, void, or refused",
    labels=["outcome"],
)
bank_transfer_time = Histogram(
    "dcp.bank.transfer_time",
    unit="s",
    description="time from such a request to its commit, or to its refusal",
    bounds=_TIMES,
)
bank_escrow = Gauge("dcp.bank.escrow", unit="{DCC}", description="DCC that are held for jobs")
bank_holds = Gauge("dcp.bank.holds", unit="{hold}", description="jobs that money is held for")
bank_pending = Gauge(
    "dcp.bank.pending", unit="{transfer}", description="transfers in two steps that wait for the second"
)
chain_height = Gauge("dcp.bank.chain.height", unit="{block}", description="newest block seen of the outside chain")
chain_carried = Gauge("dcp.bank.chain.carried", unit="{block}", description="last block of it that the ledger follows")
chain_deposits = Counter("dcp.bank.chain.deposits", unit="{deposit}", description="deposits that were credited")
chain_deposits_in_flight = Gauge(
    "dcp.bank.chain.deposits_in_flight", unit="{deposit}", description="deposits that have not enough confirmations yet"
)
chain_withdrawals = Counter(
    "dcp.bank.chain.withdrawals",
    unit="{withdrawal}",
    description="withdrawals that ended: done, or failed and given back",
    labels=["outcome"],
)
chain_withdrawals_in_flight = Gauge(
    "dcp.bank.chain.withdrawals_in_flight",
    unit="{withdrawal}",
    description="withdrawals on their way: waiting to be sent, or sent and not final",
    labels=["state"],
)


class Readings:
    """The totals of this process since it was made."""

    def __init__(self) -> None:
        self._counters = {meter.name: meter for meter in METERS if isinstance(meter, Counter)}
        self._before = {name: meter.total for name, meter in self._counters.items()}

    def total(self, name: str) -> float:
        """What a counter has grown by, over all its labels; 0 for a name that there is not."""
        return self._counters[name].total - self._before[name] if name in self._counters else 0
