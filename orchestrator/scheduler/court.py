"""Pure: the opinions on those slices of one job that a batch of reports is about.

Filled with what the database knows, asked and told by `settling`; what it remembers in the end is written in the same
transaction, or nothing of it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from orchestrator.scheduler.redundancy import Asked, Decision, Opinion, Outcome, Panel, Rule, SpotChecks, State
from orchestrator.scheduler.trust import Trust, TrustRules

PAID = frozenset({State.AGREED, State.UNDECIDED})


class Court:
    def __init__(
        self,
        job_id: str,
        rule: Rule,
        opinions: Mapping[int, Sequence[Opinion]],
        *,
        trust: Mapping[str, Trust],
        rules: TrustRules,
        checks: SpotChecks,
    ) -> None:
        self.rule = rule
        self.verdicts: dict[str, list[bool]] = {}
        """by identity: whether others agreed with an opinion of its, or it was shown wrong; in this order"""
        self._job_id = job_id
        self._panels = {number: Panel(rule, tuple(those)) for number, those in opinions.items()}
        self._trust = dict(trust)
        self._rules = rules
        self._checks = checks
        self._new: dict[tuple[int, int], None] = {}
        self._settled: dict[int, None] = {}

    def panel(self, number: int) -> Panel:
        return self._panels.get(number) or Panel(self.rule)

    def under(self, number: int, lease: int) -> Opinion | None:
        """The opinion that came under a lease."""
        return self.panel(number).under(lease)

    def may_ask(self, number: int, who: Asked) -> bool:
        return self.panel(number).may_ask(who)

    def hear(self, number: int, opinion: Opinion) -> Decision:
        """One more opinion. `panel(number)` then shows what became of all."""
        before = self.panel(number)
        known = any(one.digest == opinion.digest for one in before.opinions)
        # One text of each result is enough to keep.
        opinion = dataclasses.replace(opinion, place=len(before.opinions), uri="" if known else opinion.uri)
        panel = before.hear(opinion)
        self._new[number, opinion.lease] = None
        decision = self._decision(number, panel)
        if decision.outcome is not Outcome.MORE:
            panel = panel.settled(decision)
            self._settled[number] = None
        self._panels[number] = panel
        self._learn(panel)
        return decision

    def decision(self, number: int) -> Decision:
        """Where a slice stands."""
        return self._decision(number, self.panel(number))

    def _decision(self, number: int, panel: Panel) -> Decision:
        return panel.decide(self._trust, self._rules, lambda _, rate: self._checks.chosen(self._job_id, number, rate))

    def _learn(self, panel: Panel) -> None:
        agreed = [one for one in panel.opinions if one.state is State.AGREED]
        if len(agreed) < 2:  # one that was believed alone has shown nothing
            return
        for one in panel.opinions:
            right = one.state is State.AGREED
            before = self._trust.get(one.by.identity, Trust())
            self._trust[one.by.identity] = before.confirmed() if right else before.refuted()
            self.verdicts.setdefault(one.by.identity, []).append(right)

    def give_up(self, number: int) -> None:
        """The slice has failed for another reason."""
        panel = self.panel(number)
        if panel.opinions and not panel.is_settled:
            self._panels[number] = panel.given_up()
            self._settled[number] = None

    def to_pay(self, number: int) -> list[Opinion]:
        return [one for one in self.panel(number).opinions if one.state in PAID]

    def wrong(self, number: int) -> list[Opinion]:
        return [one for one in self.panel(number).opinions if one.state is State.WRONG]

    def accepted(self, number: int) -> Opinion:
        """The opinion whose text stands for all that agree with it."""
        agreed = [one for one in self.panel(number).opinions if one.state is State.AGREED]
        return next((one for one in agreed if one.uri), agreed[0])

    @property
    def added(self) -> list[tuple[int, Opinion]]:
        """Opinions that were not there before, as they are now."""
        return [
            (number, self._kept(number, one))
            for number, lease in self._new
            if (one := self.under(number, lease)) is not None
        ]

    @property
    def changed(self) -> list[tuple[int, Opinion]]:
        """Earlier opinions of which it is known now what became of them."""
        return [
            (number, one)
            for number in self._settled
            for one in self.panel(number).opinions
            if (number, one.lease) not in self._new
        ]

    def _kept(self, number: int, one: Opinion) -> Opinion:
        return dataclasses.replace(one, uri="") if number in self._settled else one
