"""What the audit reads of the rows in memory."""

from __future__ import annotations

from tests.simulation.memory.state import Memory
from tests.simulation.rows import Changes, JobRow, LeaseRow, OpinionRow, Postings, SliceRow, Touched, must_agree


class MemoryRows:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def changed(self) -> Changes | None:
        touched = self._memory.touched
        if not touched:
            return None
        self._memory.touched = Touched()
        return self._read(touched)

    def everything(self) -> Changes:
        memory = self._memory
        everything = Touched(
            places=memory.slices.keys() | memory.results.keys() | memory.opinions.keys(),
            jobs=set(memory.jobs),
            accounts=set(memory.accounts),
            postings=set(memory.postings),
            leases=set(memory.leases),
        )
        return self._read(everything)

    def postings(self) -> Postings:
        found = Postings()
        for one in self._memory.postings.values():
            found.add(one.id, one.kind, one.source, one.target, one.amount)
        return found

    def _read(self, touched: Touched) -> Changes:
        memory = self._memory
        changes = Changes(places=touched.places)
        for place in touched.places:
            if place in memory.slices:
                piece = memory.slices[place].piece
                changes.slices[place] = SliceRow(str(piece.state), piece.lease, piece.rival, piece.opinions)
            if place in memory.results:
                changes.results[place] = memory.results[place]
            if place in memory.opinions:
                changes.opinions[place] = [
                    OpinionRow(one.lease, one.by.identity, str(one.state)) for one in memory.opinions[place]
                ]
        for key in touched.jobs:
            changes.jobs[key] = self._job(key)
        for name in touched.accounts:
            changes.accounts[name] = memory.accounts[name]
        for one in touched.postings:
            posting = memory.postings[one]
            if posting.kind == "payment":
                changes.paid[posting.source] = changes.paid.get(posting.source, 0) + posting.amount
        for lease in touched.leases:
            row = memory.leases.get(lease)
            changes.leases[lease] = None if row is None else LeaseRow(
                row.worker, row.peer, row.token, row.ended, row.opened_at, row.expires_at
            )  # fmt: skip
        return changes

    def _job(self, key: int) -> JobRow:
        state, record = self._memory.jobs[key], self._memory.records[key]
        counts = state.counts
        return JobRow(
            key, record.id, str(state.status), record.slice_price, counts.total, counts.cursor, counts.ready,
            counts.leased, counts.accepted, counts.failed, counts.copies, counts.paid, counts.doubted, state.funded,
            state.ended_at is not None, must_agree(record.spec),
        )  # fmt: skip
