"""The rules that must hold after every commit, checked from the rows alone, and over every answer that leaves.

What the code under test computes is computed again in another way; beside that, the pure machines' own `validate` must
be content with the rows.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import Any

from orchestrator.bank.store import LIMB
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.server import Request
from orchestrator.scheduler import escrow
from orchestrator.scheduler.lifecycle import Counts
from tests.simulation.workers import right_value
from tests.simulation.world import Violation, World

ENDED = ("finished", "cancelled")
_ALLOWED = {
    (None, "leased"), (None, "ready"), (None, "accepted"), (None, "failed"),
    ("ready", "leased"), ("leased", "ready"), ("leased", "accepted"), ("leased", "failed"), ("ready", "accepted"),
    ("ready", "failed"), ("leased", "leased"),
}  # fmt: skip
"""what a slice may have become between two commits; one commit may make two steps (returned and leased again)"""

_Row = tuple[str, int, int]
"""state, lease, rival"""
_Opinion = tuple[int, int, int, str, str]
"""job, number, lease, identity, state"""


def _agree(spec: str) -> int | None:
    rule = json.loads(spec).get("redundancy")
    return None if rule is None or rule["trusting"] else int(rule["agree"])


@dataclasses.dataclass(slots=True)
class JobRow:
    key: int
    id: str
    status: str
    price: int
    total: int
    cursor: int
    ready: int
    leased: int
    accepted: int
    failed: int
    copies: int
    paid: int
    doubted: int
    funded: int | None
    ended: bool
    agree: int | None = None
    """workers that must agree, whoever they are; None: one is enough"""

    @property
    def counts(self) -> Counts:
        return Counts(
            self.total, self.cursor, self.ready, self.leased, self.accepted, self.failed,
            copies=self.copies, paid=self.paid, doubted=self.doubted,
        )  # fmt: skip


class Audit:
    """`step()` after every commit; `answered()` for every answer; `end()` when the simulation is over."""

    def __init__(self, world: World, raw: sqlite3.Connection) -> None:
        self._world = world
        self._raw = raw
        self._rows: dict[tuple[int, int], _Row] = {}
        self._newest: dict[tuple[int, int], int] = {}
        self._results: dict[tuple[int, int], tuple[str, int]] = {}
        self._postings = 0
        self._paid_answers: dict[tuple[str, int], str] = {}
        self._granted: dict[int, str] = {}
        """who was given which lease"""
        self.commits = 0
        self._skipped = False
        """commits were not looked at since the last time"""

    # --- after every commit

    def step(self) -> None:
        self.commits += 1
        # Every row is read each time: beyond a thousand slices not after every commit.
        if self.commits % max(1, len(self._rows) // 500):
            self._skipped = True
        else:
            self._look()

    def _look(self) -> None:
        jobs = self._jobs()
        self._check_slices(jobs)
        self._check_money(jobs)
        self._skipped = False

    def _jobs(self) -> dict[int, JobRow]:
        rows = self._raw.execute(
            "SELECT key, id, status, slice_price, total, cursor, ready, leased, accepted, failed, copies, paid,"
            " doubted, funded, ended_at, spec FROM jobs"
        )
        return {row[0]: JobRow(*row[:3], int(row[3]), *row[4:14], row[14] is not None, _agree(row[15])) for row in rows}

    def _check_slices(self, jobs: dict[int, JobRow]) -> None:
        rows = {(job, number): (state, lease, rival) for job, number, state, lease, rival in self._raw.execute(
            "SELECT job, number, state, lease, rival FROM slices"
        )}  # fmt: skip
        results = {(job, number): (uri, lease) for job, number, uri, lease in self._raw.execute(
            "SELECT job, number, uri, lease FROM slice_results"
        )}  # fmt: skip
        opinions = self._opinions()
        agreed = {(job, number, lease) for job, number, lease, _, state in opinions if state == "agreed"}
        for place in rows.items() - self._rows.items():
            self._check_change(place[0], place[1], results, agreed)
        self._check_opinions(jobs, results, opinions)
        gone = self._rows.keys() - rows.keys()
        self._demand(not gone, "no slice is forgotten", gone)
        lost = [one for one, value in self._results.items() if results.get(one) != value]
        self._demand(not lost, "an accepted result never changes", lost)
        self._rows, self._results = rows, results
        counted: dict[int, dict[str, int]] = {key: {} for key in jobs}
        for (job, _), (state, _, _) in rows.items():
            counted[job][state] = counted[job].get(state, 0) + 1
        accepted: dict[int, int] = {}
        for job, _ in results:
            accepted[job] = accepted.get(job, 0) + 1
        for key, job in jobs.items():
            have = counted[key]
            said = {"ready": job.ready, "leased": job.leased, "accepted": job.accepted, "failed": job.failed}
            self._demand(
                all(have.get(state, 0) == number for state, number in said.items()),
                "the counters of a job are the numbers of its slices", (job, have),
            )  # fmt: skip
            self._demand(sum(have.values()) == job.cursor <= job.total, "slices behind the cursor have rows", job)
            self._demand(accepted.get(key, 0) == job.accepted, "one result per accepted slice", job)
            if job.status == "finished":
                self._demand(job.accepted + job.failed == job.total, "a finished job has all its slices", job)
        orphans = self._raw.execute(
            "SELECT s.job, s.number, s.lease, s.rival FROM slices s LEFT JOIN leases l ON l.id = s.lease"
            " LEFT JOIN leases r ON r.id = s.rival JOIN jobs j ON j.key = s.job"
            " WHERE s.state = 'leased' AND j.ended_at IS NULL"
            " AND (l.id IS NULL OR l.ended OR (s.rival > 0 AND (r.id IS NULL OR r.ended)))"
        ).fetchall()
        self._demand(not orphans, "no slice is out without an owner", orphans)

    def _opinions(self) -> list[_Opinion]:
        return self._raw.execute("SELECT job, number, lease, identity, state FROM slice_opinions").fetchall()

    def _check_opinions(
        self, jobs: dict[int, JobRow], results: dict[tuple[int, int], tuple[str, int]], opinions: list[_Opinion]
    ) -> None:
        """Where workers must agree."""
        by_slice: dict[tuple[int, int], list[_Opinion]] = {}
        for one in opinions:
            by_slice.setdefault(one[:2], []).append(one)
        for place, those in by_slice.items():
            job, states = jobs[place[0]], [state for *_, state in those]
            self._demand(len(those) <= job.copies, "no more opinions than a job pays", (place, those))
            self._demand(len({one[3] for one in those}) == len(those), "nobody is heard twice on a slice", those)
            self._demand("wrong" not in states or states.count("agreed") >= 2, "one word shows nobody wrong", those)
        for place, (uri, _) in results.items():
            agree = jobs[place[0]].agree
            if agree is None:
                continue
            states = [state for *_, state in by_slice.get(place, [])]
            self._demand(states.count("agreed") >= agree, "what is accepted is agreed", (place, states))
            self._demand(uri == right_value(place[1]), "no wrong result is accepted while liars are few", (place, uri))
        doubted = dict(
            self._raw.execute("SELECT job, count(*) FROM slices WHERE state = 'ready' AND opinions > 0 GROUP BY job")
        )
        for key, job in jobs.items():
            self._demand(doubted.get(key, 0) == job.doubted, "slices in doubt are counted", job)

    def _check_change(
        self,
        place: tuple[int, int],
        after: _Row,
        results: dict[tuple[int, int], tuple[str, int]],
        agreed: set[tuple[int, int, int]],
    ) -> None:
        before = self._rows.get(place)
        state, lease, rival = after
        was = before[0] if before else None
        what = (place, before, after)
        self._demand((was, state) in _ALLOWED or was == state == "ready", "a slice goes only where it may", what)
        newest = self._newest.get(place, 0)
        # The leases under which a result counts.
        known = {one for one in before[1:] if one} if before else set()
        if state == "leased":
            self._demand(lease > newest or lease in known, "a lease is newer than any before, or goes on", what)
            self._demand(
                not rival or rival in known or self._skipped, "a second lease is beside one that was there", what
            )
            self._newest[place] = max(newest, lease)
        elif state == "accepted":
            self._demand(results.get(place, ("", 0))[1] == lease, "an accepted slice has a result of its lease", what)
            self._demand(
                lease in known or before is None or self._skipped or (*place, lease) in agreed,
                "only a lease that counts brings a result", what,
            )  # fmt: skip

    def _check_money(self, jobs: dict[int, JobRow]) -> None:
        balances = {
            name: (high * LIMB + low, kind)
            for name, kind, high, low in self._raw.execute("SELECT name, kind, high, low FROM bank_accounts")
        }
        self._demand(sum(units for units, _ in balances.values()) == 0, "all accounts sum to zero", balances)
        below = [name for name, (units, kind) in balances.items() if units < 0 and kind != "issuance"]
        self._demand(not below, "no account is below zero", below)
        paid = self._paid()
        heard = dict(
            self._raw.execute(
                "SELECT job, count(*) FROM slice_opinions WHERE state IN ('agreed', 'undecided') GROUP BY job"
            )
        )
        for job in jobs.values():
            due = job.accepted if job.copies == 1 else heard.get(job.key, 0)
            self._demand(job.copies == 1 or job.paid == due, "opinions that are paid are counted", (job, due))
            held = balances.get(f"escrow:job:{job.id}", (0, ""))[0]
            spent = paid.get(f"escrow:job:{job.id}", 0)
            self._demand(spent <= job.price * due, "no slice is paid twice", (job, spent))
            self._demand(job.price == 0 or spent % job.price == 0, "slices are paid in full", (job, spent))
            if job.ended:
                self._demand(held == 0, "an ended job holds no money", (job, held))
            else:
                self._check_hold(job, held)

    def _check_hold(self, job: JobRow, held: int) -> None:
        """For the slices that are out, and for those of which the job says that money is there."""
        out = job.leased + job.doubted
        self._demand(held >= job.price * job.copies * out, "the hold covers what is out", (job, held))
        if job.funded is not None:
            unspent = job.price * (job.copies * job.funded - (job.accepted if job.copies == 1 else job.paid))
            self._demand(held >= unspent, "the hold is as large as the job says", (job, held))
        try:
            job.counts.validate()
            escrow.validate(job.funded, job.counts)
        except OrchestratorError as error:
            raise Violation(f"at {self._world.elapsed:.3f} s: broken rule of job {job}: {error.message}") from error

    def _paid(self) -> dict[str, int]:
        return {
            name: high * LIMB + low
            for name, high, low in self._raw.execute(
                "SELECT a.name, sum(p.high), sum(p.low) FROM bank_postings p JOIN bank_accounts a ON a.id = p.source"
                " WHERE p.kind = 'payment' GROUP BY a.name"
            )
        }

    # --- every answer

    def answered(self, request: Request, answer: Any) -> None:
        """Before the network may lose it."""
        if not isinstance(answer, dict):
            return
        if "lease" in answer.get("auth", {}):
            lease = answer["auth"]["lease"]["id"]
            self._demand(lease not in self._granted, "no lease is given twice", lease)
            self._granted[lease] = request.peer
        if request.operation != "result":
            return
        data = request.data
        place = (data["job"], data["slice"])
        if answer["verdict"] == "accepted":
            self._demand(place not in self._paid_answers, "a slice is accepted once", (place, data["worker"]))
            self._paid_answers[place] = data["worker"]
            auth = data["authorizationMessage"]["auth"]
            found = self._raw.execute(
                "SELECT 1 FROM slice_results r JOIN jobs j ON j.key = r.job WHERE j.id = ? AND r.number = ?"
                " AND (r.lease = ? OR EXISTS (SELECT 1 FROM slice_opinions o WHERE o.job = r.job AND"
                " o.number = r.number AND o.lease = ? AND o.state = 'agreed'))",
                (*place, auth["lease"]["id"], auth["lease"]["id"]),
            ).fetchone()
            its_own = found is not None
            self._demand(its_own, "the lease that is paid is the slice's own", place)
            self._demand(self._granted.get(auth["lease"]["id"]) == request.peer, "who is paid has the lease", place)
        elif answer["verdict"] != "undecided":  # where nobody is right, nobody is wrong
            self._demand(answer["slicePaymentAmount"] == "0", "what is not accepted is not paid", (place, answer))

    # --- at the end

    def end(self, acknowledged: dict[str, int], expect_ended: bool) -> dict[str, int]:
        """`acknowledged`: postings that somebody was told of. Returns figures for the report."""
        self._look()
        postings = {
            name: high * LIMB + low
            for name, high, low in self._raw.execute("SELECT posting_id, high, low FROM bank_postings")
        }
        missing = {name: units for name, units in acknowledged.items() if postings.get(name) != units}
        self._demand(not missing, "what was acknowledged is posted, once", missing)
        sums: dict[str, int] = {}
        for source, target, high, low in self._raw.execute(
            "SELECT s.name, t.name, p.high, p.low FROM bank_postings p"
            " JOIN bank_accounts s ON s.id = p.source JOIN bank_accounts t ON t.id = p.target"
        ):
            units = high * LIMB + low
            sums[source] = sums.get(source, 0) - units
            sums[target] = sums.get(target, 0) + units
        wrong = [
            name
            for name, high, low in self._raw.execute("SELECT name, high, low FROM bank_accounts")
            if high * LIMB + low != sums.get(name, 0)
        ]
        self._demand(not wrong, "every balance is the sum of its postings", wrong)
        jobs = self._jobs()
        unfinished = [job for job in jobs.values() if not job.ended]
        self._demand(not expect_ended or not unfinished, "every job ends", unfinished)
        return {
            "jobs": len(jobs),
            "finished": sum(job.status == "finished" for job in jobs.values()),
            "slices": len(self._rows),
            "accepted": sum(job.accepted for job in jobs.values()),
            "given up": sum(job.failed for job in jobs.values()),
            "postings": len(postings),
            "commits": self.commits,
        }

    def _demand(self, holds: bool, rule: str, found: Any) -> None:
        if not holds:
            raise Violation(f"at {self._world.elapsed:.3f} s: broken rule: {rule}: {found!r:.1500}")
