"""Pure: the supervisor's cashier: what became of results, what they were paid with, and which jobs pay too little."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from orchestrator.bank import amounts
from orchestrator.errors import InvalidInput
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.audit import Auditor
from orchestrator.worker.desk import ANSWERED_KEPT
from orchestrator.worker.holdings import ACCEPTED, Held, Job, Place
from orchestrator.worker.refusals import Kind
from orchestrator.worker.task import JobOffer


class Cashier(Auditor):
    """See the module."""

    def _on_accepted(self, event: ev.ResultAccepted, now: float) -> None:
        held = self._reported(event)
        if held is not None:
            self._counts["results accepted"] += 1
            held.job.completed += 1
            self._pay(held, event.answer)
            self._answered[held.job.id, held.number] = held.authorization
            if len(self._answered) > ANSWERED_KEPT:
                del self._answered[next(iter(self._answered))]
            self._let_go(held, now, ACCEPTED)
            self._look_at_wage(held.job, now)

    def _pay(self, held: Held, answer: Any) -> None:
        amount = answer.get("slicePaymentAmount") if isinstance(answer, Mapping) else None
        if amount is not None:
            paid = _units(str(amount))
            self._earned += paid
            held.job.earned += paid
            if held.cost is not None:
                self._wages.paid(held.job.id, held.cost, paid)

    def _look_at_wage(self, job: Job, now: float) -> None:
        """A job that turns out to pay too little: what sandboxes have is finished, the rest goes back."""
        unwanted = self._underpaid(job.offer, now) if self.policy.wages.wage else None
        if unwanted is None or self._stopping:
            return
        code, detail = unwanted
        self._refuse_for_a_while(job.id, now)
        self._note_why(job.id, code, detail)
        if job.unstarted():
            self._tell_job(job, now, f"refused for a while: {detail}")
            self._return_unstarted(job, code, now)

    def _on_refused(self, event: ev.ResultRefused, now: float) -> None:
        held = self._reported(event)
        if held is None:
            return
        self._counts[f"results refused {event.code}"] += 1
        if event.lost:
            self._refusals.note(Kind.SLICE, event.code, now, job=held.job.id, detail=event.message)
        else:
            self._note_why(held.job.id, event.code, event.message)
        if event.lost:
            self._let_go(held, now, f"result refused: {event.code}: {event.message}")
        else:
            self._return([held], event.code, now)

    def _reported(self, event: ev.ResultAccepted | ev.ResultRefused) -> Held | None:
        held = self._held.get(event.key)
        if held is None or held.place is not Place.REPORTED:
            self._ignore(event)
            return None
        return held

    def _underpaid(self, offer: JobOffer, now: float) -> tuple[str, str] | None:
        why = self._wages.refusal(offer.job_id, offer.slice_price, offer.slice_cost, now)
        return None if why is None else ("EWAGE", why)

    def _refuse_for_a_while(self, job_id: str, now: float) -> None:
        """The Scheduler hears of it with every request, and does not send slices of it: others may want them."""
        until = self._wages.refused_until(job_id)
        self._paused[job_id] = now + self.policy.unwanted_s if until is None else until


@functools.lru_cache(maxsize=256)  # slices of a job are mostly paid alike
def _units(amount: str) -> int:
    """Units of 10^-18 DCC; what is no amount counts as nothing."""
    try:
        return amounts.parse_amount(amount, round_down=True)
    except InvalidInput:
        return 0
