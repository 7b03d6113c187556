"""The rules that must hold after every commit, checked from the rows alone, and over every answer that leaves.

What the code under test computes is computed again in another way; beside that, the pure machines' own `validate` must
be content with the rows. After a commit the rules are checked of what it touched. Now and then, and at the end, all
rows are read again, and all of them are checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from typing import Any

from orchestrator.bank.amounts import UNITS, parse_amount
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.server import Request
from orchestrator.scheduler import escrow
from tests.simulation.mirror import Mirror
from tests.simulation.rows import Changes, JobRow, LeaseRow, Place, Postings, Rows, SliceRow
from tests.simulation.workers import right_value
from tests.simulation.world import Violation, World

FULL_EVERY = 500
"""commits after which everything is looked at, or as many as there are slices"""
_ALLOWED = {
    (None, "leased"),
    ("ready", "leased"), ("ready", "ready"), ("ready", "accepted"), ("ready", "failed"),
    ("leased", "leased"), ("leased", "ready"), ("leased", "accepted"), ("leased", "failed"),
}  # fmt: skip
"""what a slice may have become between two commits"""


@dataclasses.dataclass(frozen=True)
class Private:
    """The compute group of jobs that are in no other."""

    account: str
    """who gets its commission"""
    rate: int
    """in 10^-18"""
    members: Set[str]
    """identities of workers"""


class Audit:
    """`step()` after every commit; `answered()` for every answer; `end()` when the simulation is over."""

    def __init__(self, world: World, rows: Rows) -> None:
        self._world = world
        self._rows = rows
        self._mirror = Mirror()
        self._newest: dict[Place, int] = {}
        """the highest lease that a slice has had"""
        self._accepted: dict[tuple[str, int], str] = {}
        """slices of which a worker was told that its result is accepted"""
        self._granted: dict[int, str] = {}
        """who was given which lease"""
        self._told: dict[str, int] = {}
        """units that workers were told are paid, by address"""
        self.private: dict[str, Private] = {}
        """by the id of the job"""
        self.commits = 0
        self._full_at = FULL_EVERY

    # --- after every commit

    def step(self) -> None:
        changes = self._rows.changed()
        if changes is None:
            return
        self.commits += 1
        self._look(changes)
        if self.commits >= self._full_at:
            self._look_at_all()
            self._full_at = self.commits + max(FULL_EVERY, len(self._mirror.slices))

    def _look(self, changes: Changes) -> None:
        before = {place: self._mirror.slices.get(place) for place in changes.places}
        for place in changes.places:
            self._check_results(place, changes)
        for lease, row in changes.leases.items():
            self._check_lease(lease, row)
        self._mirror.apply(changes)
        for place, was in before.items():
            self._check_change(place, was, self._mirror.slices.get(place))
            self._check_opinions(place)
            self._check_owner(place)
        for lease in changes.leases:
            for place in self._mirror.out.get(lease, ()):
                self._check_owner(place)
        for key in self._mirror.concerned(changes):
            self._check_job(self._mirror.jobs[key])
        self._check_accounts(changes)

    def _look_at_all(self) -> None:
        """Nothing has changed that was not seen, and every rule holds for everything."""
        fresh, everything = Mirror(), self._rows.everything()
        fresh.apply(everything)
        difference = self._mirror.difference(fresh)
        self._demand(difference is None, "what has changed was seen", difference)
        for place in fresh.slices:
            self._check_opinions(place)
            self._check_owner(place)
        for job in fresh.jobs.values():
            self._check_job(job)
        self._check_accounts(everything)

    # --- slices

    def _check_results(self, place: Place, changes: Changes) -> None:
        """`changes` are not in the copy yet."""
        was, now = self._mirror.results.get(place), changes.results.get(place)
        self._demand(was is None or was == now, "an accepted result never changes", (place, was, now))

    def _check_change(self, place: Place, before: SliceRow | None, after: SliceRow | None) -> None:
        what = (place, before, after)
        self._demand(after is not None, "no slice is forgotten", what)
        if after is None or before == after:
            return
        was = before.state if before else None
        self._demand((was, after.state) in _ALLOWED, "a slice goes only where it may", what)
        newest = self._newest.get(place, 0)
        # The leases under which a result counts.
        known = {one for one in (before.lease, before.rival) if one} if before else set()
        if after.state == "leased":
            goes_on = after.lease in known
            self._demand(after.lease > newest or goes_on, "a lease is newer than any before, or goes on", what)
            beside = not after.rival or after.rival in known
            self._demand(beside, "a second lease is beside one that was there", what)
            self._newest[place] = max(newest, after.lease)
        elif after.state == "accepted":
            agreed = any(
                one.lease == after.lease and one.state == "agreed" for one in self._mirror.opinions.get(place, [])
            )
            self._demand(after.lease in known or agreed, "only a lease that counts brings a result", what)

    def _check_owner(self, place: Place) -> None:
        row, job = self._mirror.slices.get(place), self._mirror.jobs.get(place[0])
        if row is None or job is None:
            return
        result = self._mirror.results.get(place)
        self._demand((row.state == "accepted") == (result is not None), "an accepted slice has one result", place)
        self._demand(result is None or result[1] == row.lease, "an accepted slice has a result of its lease", place)
        if job.ended:
            return
        for lease in row.under:
            owner = self._mirror.leases.get(lease)
            self._demand(owner is not None and not owner.ended, "no slice is out without an owner", (place, row, owner))
        self._demand(row.state != "leased" or row.lease > 0, "no slice is out without a lease", (place, row))

    def _check_lease(self, lease: int, row: LeaseRow | None) -> None:
        """`row` is not in the copy yet."""
        was = self._mirror.leases.get(lease)
        if row is None:
            self._demand(was is None or was.ended, "no lease is forgotten that lives", (lease, was))
            return
        what = (lease, was, row)
        self._demand(bool(row.worker and row.peer and row.token), "no lease is without an owner", what)
        self._demand(row.expires_at > row.opened_at, "every lease expires", what)
        if was is not None:
            same = (row.worker, row.peer, row.token) == (was.worker, was.peer, was.token)
            self._demand(same, "a lease stays with its owner", what)
            self._demand(row.ended or not was.ended, "a lease that has ended never lives again", what)

    # --- where workers must agree

    def _check_opinions(self, place: Place) -> None:
        those, job = self._mirror.opinions.get(place), self._mirror.jobs.get(place[0])
        result = self._mirror.results.get(place)
        if job is None or not (those or job.agree):
            return
        those = those or []
        states = [one.state for one in those]
        self._demand(len(those) <= job.copies, "no more opinions than a job pays", (place, those))
        self._demand(len({one.identity for one in those}) == len(those), "nobody is heard twice on a slice", those)
        self._demand("wrong" not in states or states.count("agreed") >= 2, "one word shows nobody wrong", those)
        if result is None or job.agree is None:
            return
        self._demand(states.count("agreed") >= job.agree, "what is accepted is agreed", (place, states))
        right = result[0] == right_value(place[1])
        self._demand(right, "no wrong result is accepted while liars are few", (place, result))

    # --- jobs and their money

    def _check_job(self, job: JobRow) -> None:
        mirror, key = self._mirror, job.key
        have = mirror.states[key]
        said = {"ready": job.ready, "leased": job.leased, "accepted": job.accepted, "failed": job.failed}
        counted = all(have[state] == number for state, number in said.items())
        self._demand(counted, "the counters of a job are the numbers of its slices", (job, have))
        self._demand(have.total() == job.cursor <= job.total, "slices behind the cursor have rows", job)
        self._demand(mirror.accepted[key] == job.accepted, "one result per accepted slice", job)
        self._demand(mirror.doubted[key] == job.doubted, "slices in doubt are counted", job)
        complete = job.accepted + job.failed == job.total
        self._demand(job.status != "finished" or complete, "a finished job has all its slices", job)
        due = job.accepted if job.copies == 1 else mirror.heard[key]
        self._demand(job.copies == 1 or job.paid == due, "opinions that are paid are counted", (job, due))
        held, spent = mirror.accounts.get(job.account, (0, ""))[0], mirror.paid.get(job.account, 0)
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

    def _check_accounts(self, changes: Changes) -> None:
        self._demand(self._mirror.units == 0, "all accounts sum to zero", self._mirror.accounts)
        below = [name for name, (units, kind) in changes.accounts.items() if units < 0 and kind != "issuance"]
        self._demand(not below, "no account is below zero", below)

    # --- every answer

    def answered(self, request: Request, answer: Any) -> None:
        """Before the network may lose it."""
        if not isinstance(answer, dict):
            return
        if "lease" in answer.get("auth", {}):
            lease = answer["auth"]["lease"]["id"]
            self._demand(lease not in self._granted, "no lease is given twice", lease)
            self._granted[lease] = request.peer
            for job in answer["body"]["task"]:
                within = self.private.get(job)
                is_in = within is None or request.peer in within.members
                self._demand(is_in, "a job's slices go only to workers of its groups", (job, request.peer))
        if request.operation == "result":
            self._check_verdict(request, answer)

    def _check_verdict(self, request: Request, answer: dict[str, Any]) -> None:
        data, verdict, paid = request.data, answer["verdict"], parse_amount(answer["slicePaymentAmount"])
        place = (data["job"], data["slice"])
        if verdict == "accepted":
            self._demand(place not in self._accepted, "a slice is accepted once", (place, data["worker"]))
            self._accepted[place] = data["worker"]
            lease = data["authorizationMessage"]["auth"]["lease"]["id"]
            key = self._mirror.job_of[f"escrow:job:{data['job']}"]
            mine = self._mirror.results.get((key, data["slice"]), ("", 0))[1] == lease or any(
                one.lease == lease and one.state == "agreed"
                for one in self._mirror.opinions.get((key, data["slice"]), [])
            )
            self._demand(mine, "the lease that is paid is the slice's own", place)
            self._demand(self._granted.get(lease) == request.peer, "who is paid has the lease", place)
        elif verdict != "undecided":  # where nobody is right, nobody is wrong
            self._demand(paid == 0, "what is not accepted is not paid", (place, answer))
        payee = data.get("paymentAddress")
        if paid and isinstance(payee, str):
            self._told[payee] = self._told.get(payee, 0) + paid

    # --- at the end

    def end(self, acknowledged: dict[str, int], expect_ended: bool) -> dict[str, int]:
        """`acknowledged`: postings that somebody was told of. Returns figures for the report."""
        self.step()
        self._look_at_all()
        postings = self._rows.postings()
        missing = {name: units for name, units in acknowledged.items() if postings.units.get(name) != units}
        self._demand(not missing, "what was acknowledged is posted, once", missing)
        accounts = self._mirror.accounts
        wrong = [name for name, (units, _) in accounts.items() if units != postings.sums.get(name, 0)]
        self._demand(not wrong, "every balance is the sum of its postings", wrong)
        unpaid = {name: units for name, units in self._told.items() if postings.earned.get(name, 0) < units}
        self._demand(not unpaid, "what a worker is told is paid was paid", unpaid)
        self._check_commissions(postings)
        jobs = self._mirror.jobs
        unfinished = [job for job in jobs.values() if not job.ended]
        self._demand(not expect_ended or not unfinished, "every job ends", unfinished)
        return {
            "jobs": len(jobs),
            "finished": sum(job.status == "finished" for job in jobs.values()),
            "slices": len(self._mirror.slices),
            "accepted": sum(job.accepted for job in jobs.values()),
            "given up": sum(job.failed for job in jobs.values()),
            "postings": len(postings.units),
            "commits": self.commits,
        }

    def _check_commissions(self, postings: Postings) -> None:
        due: dict[str, int] = {within.account: 0 for within in self.private.values()}
        for job, within in self.private.items():
            due[within.account] += self._mirror.paid.get(f"escrow:job:{job}", 0) * within.rate // UNITS
        wrong = {name: (units, due[name]) for name in due if (units := postings.earned.get(name, 0)) != due[name]}
        self._demand(not wrong, "a group gets its part of every wage", wrong)

    def results(self) -> dict[str, set[int]]:
        """Slices that have a result, by the id of their job."""
        found: dict[str, set[int]] = {job.id: set() for job in self._mirror.jobs.values()}
        for key, number in self._mirror.results:
            found[self._mirror.jobs[key].id].add(number)
        return found

    def _demand(self, holds: bool, rule: str, found: Any) -> None:
        if not holds:
            raise Violation(f"at {self._world.elapsed:.3f} s: broken rule: {rule}: {found!r:.1500}")
