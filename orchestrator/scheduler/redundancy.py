"""Pure: when several workers must agree on a slice, and who is right when they do not.

A job may ask for `agree` of at most `of` opinions on each slice. An opinion is a result from one worker; two are the
same when the hashes of their canonical bytes are. Opinions come one after the other (late or idle workers may be asked
beside each other), each from somebody else: another worker, another identity, another payment address. The slice is
accepted as soon as enough of them agree, which is never fewer than `agree`:

    quorum = agree + opinions that say otherwise + opinions of suspects among those that agree,
             as far as `of` leaves room for it

so a suspicious result costs more opinions, and `agree - 1` liars never get a wrong result accepted. When `of` opinions
were heard without agreement, or those that are left cannot bring it, the slice has failed. Time relaxes nothing: a
slice for which nobody else is found in the end is given up, never accepted with fewer (see `settling`).

A job that is `trusting` takes the word of a trusted worker alone (see `trust`), but for spot checks. Which ones these
are depends on a secret, so that a worker cannot know.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.errors import Fault, InvalidInput, OrchestratorError
from orchestrator.scheduler.trust import NOBODY, USUAL_RULES, Trust, TrustRules

FEWEST = 2
"""opinions that agree; with one, nothing is compared"""


class RedundancyBroken(OrchestratorError):
    """A bug of ours: opinions that nobody should have asked for."""

    code = "EINTERNAL"
    fault = Fault.SCHEDULER


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a job asks for: `agree` of at most `of` opinions."""

    agree: int
    of: int
    trusting: bool = False
    """a trusted worker's result is accepted alone, but for spot checks"""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """What a Scheduler lets jobs ask for."""

    agree: int = 2
    """when a job does not say how many"""
    most: int = 15
    """opinions per slice"""


USUAL_OFFER = Offer()


def parse_rule(told: Any, offer: Offer) -> Rule | None:
    """`redundancy` of a submit: true, or {agree, of, trusting}. None when the job asks for none. Raises
    `InvalidInput`."""
    if told is None or told is False:
        return None
    if told is True:
        told = {}
    if not isinstance(told, Mapping):
        raise InvalidInput(f"redundancy is {told!r:.60}; it must be true or {{agree, of, trusting}}")
    unknown = sorted(map(str, told.keys() - {"agree", "of", "trusting"}))
    if unknown:
        raise InvalidInput(f"redundancy has no field {unknown[0]!r:.40}; it has agree, of and trusting")
    agree = _count("agree", told.get("agree"), offer.agree, FEWEST, offer.most)
    of = _count("of", told.get("of"), min(usual_of(agree), offer.most), agree, offer.most)
    trusting = told.get("trusting", False)
    if not isinstance(trusting, bool):
        raise InvalidInput(f"redundancy.trusting is {trusting!r:.40}; it must be true or false")
    return Rule(agree, of, trusting)


def usual_of(agree: int) -> int:
    """Opinions that a job may ask for when it does not say: room for `agree - 1` that differ, and all the same for one
    more that must agree, so that the quorum can be raised."""
    return 2 * agree


def _count(name: str, value: Any, default: int, least: int, most: int) -> int:
    if value is None:
        return max(default, least)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidInput(f"redundancy.{name} is {value!r:.40}; it must be a whole number")
    if not least <= value <= most:
        raise InvalidInput(f"redundancy.{name} is {value:g}; it must be from {least} to {most} here")
    return int(value)


def read_rule(kept: Mapping[str, Any] | None) -> Rule | None:
    """The rule as `to_json` gave it."""
    return None if kept is None else Rule(int(kept["agree"]), int(kept["of"]), bool(kept["trusting"]))


class State(enum.StrEnum):
    """What became of an opinion."""

    PENDING = "pending"
    """waits for others"""
    AGREED = "agreed"
    """it is the accepted result; paid"""
    WRONG = "wrong"
    """enough others agree on something else; not paid"""
    UNDECIDED = "undecided"
    """nobody knows who was right; paid"""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Who is, or was, asked about a slice: the worker's name, the identity it signs with, whom it wants paid."""

    worker: str
    identity: str
    payee: str | None = None

    def is_kin(self, other: Asked) -> bool:
        """As far as anybody can tell the two are in the same hands, so that one's word adds nothing to the other's."""
        same_payee = self.payee is not None and self.payee == other.payee
        return self.worker == other.worker or self.identity == other.identity or same_payee


@dataclasses.dataclass(frozen=True, slots=True)
class Opinion:
    """One worker's result of a slice. `lease` is its number, under which the worker got the slice."""

    lease: int
    by: Asked
    digest: str
    state: State = State.PENDING
    place: int = 0
    """how many were heard before it"""
    uri: str = ""
    """the result; empty where another opinion has the same, or it is not needed any more"""
    fee_account: str | None = None
    """who takes a commission of its pay"""
    fee_rate: int = 0
    """in 10^-18"""


class Outcome(enum.StrEnum):
    MORE = "more"
    """somebody else must be asked"""
    AGREED = "agreed"
    UNDECIDED = "undecided"
    """there will be no agreement"""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    quorum: int
    """opinions that must agree, as things stand"""
    digest: str | None = None
    """what they agree on; without an agreement what most of them say, None when nothing leads"""
    missing: int = 0
    """at least so many more opinions are wanted"""


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """The opinions on one slice, in the order in which they came."""

    rule: Rule
    opinions: tuple[Opinion, ...] = ()

    def may_ask(self, who: Asked) -> bool:
        """Whether the word of this worker would count."""
        return not any(who.is_kin(opinion.by) for opinion in self.opinions)

    def under(self, lease: int) -> Opinion | None:
        """The opinion that came under a lease."""
        return next((one for one in self.opinions if one.lease == lease), None)

    def hear(self, opinion: Opinion) -> Panel:
        """Raises `RedundancyBroken` when it should not have been asked for."""
        if self.is_settled or not self.may_ask(opinion.by):
            raise RedundancyBroken(f"opinion {opinion} does not count among {self.story()}")
        return dataclasses.replace(self, opinions=(*self.opinions, opinion))

    @property
    def is_settled(self) -> bool:
        return any(one.state is not State.PENDING for one in self.opinions)

    def decide(
        self,
        trust: Mapping[str, Trust] = NOBODY,
        rules: TrustRules = USUAL_RULES,
        is_checked: Callable[[Opinion, float], bool] = lambda _opinion, _rate: True,
    ) -> Decision:
        """Where the slice stands. `trust` is what is known of identities; `is_checked(opinion, rate)` tells whether a
        trusted worker's opinion is among those that are spot-checked, which happens at that rate."""
        votes = collections.Counter(one.digest for one in self.opinions).most_common(2)
        if not votes:
            return Decision(Outcome.MORE, self.rule.agree, None, 1 if self.rule.trusting else self.rule.agree)
        digest, leading = votes[0]
        runner_up = votes[1][1] if len(votes) > 1 else 0
        mine = [one for one in self.opinions if one.digest == digest]
        dissent = len(self.opinions) - leading
        known = [(one, trust.get(one.by.identity, Trust())) for one in mine]
        suspects = sum(rules.is_suspect(standing) for _, standing in known)
        if self.rule.trusting and not dissent and not suspects:
            for one, standing in known:
                if rules.is_trusted(standing) and not is_checked(one, rules.check_rate(standing)):
                    return Decision(Outcome.AGREED, 1, digest)
        left = self.rule.of - len(self.opinions)
        # Never fewer than `agree`; beyond that only what those that are left can still bring.
        quorum = max(self.rule.agree, min(self.rule.agree + dissent + suspects, leading + left))
        if leading >= quorum and leading > runner_up:
            return Decision(Outcome.AGREED, quorum, digest)
        leader = digest if leading > runner_up else None
        if left <= 0 or leading + left < self.rule.agree:
            return Decision(Outcome.UNDECIDED, quorum, leader)
        return Decision(Outcome.MORE, quorum, leader, max(1, quorum - leading))

    def settled(self, decision: Decision) -> Panel:
        """The opinions as the decision leaves them."""
        if decision.outcome is Outcome.MORE:
            return self
        undecided = decision.outcome is Outcome.UNDECIDED

        def state(one: Opinion) -> State:
            if undecided:
                return State.UNDECIDED
            return State.AGREED if one.digest == decision.digest else State.WRONG

        return dataclasses.replace(
            self, opinions=tuple(dataclasses.replace(one, state=state(one)) for one in self.opinions)
        )

    def given_up(self) -> Panel:
        """The slice has failed for another reason, or its job has ended: nobody was shown wrong."""
        undecided = [dataclasses.replace(one, state=State.UNDECIDED) for one in self.opinions]
        return self if self.is_settled else dataclasses.replace(self, opinions=tuple(undecided))

    def validate(self) -> None:
        """Raise `RedundancyBroken` unless every invariant holds."""
        opinions = self.opinions
        agreed = {one.digest for one in opinions if one.state is State.AGREED}
        enough = self.rule.agree if not self.rule.trusting else 1
        kin = [
            (one, other) for place, one in enumerate(opinions) for other in opinions[:place] if one.by.is_kin(other.by)
        ]
        rules = {
            "there are no more opinions than the job pays": len(opinions) <= self.rule.of,
            "nobody is heard twice": not kin,
            "no lease brings two opinions": len({one.lease for one in opinions}) == len(opinions),
            "one result is right": len(agreed) <= 1,
            "who is wrong is outnumbered by who is right": not any(one.state is State.WRONG for one in opinions)
            or sum(one.state is State.AGREED for one in opinions) >= self.rule.agree,
            "enough agree": not agreed or sum(one.state is State.AGREED for one in opinions) >= enough,
            "opinions are settled together": len({one.state is State.PENDING for one in opinions}) <= 1,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise RedundancyBroken(f"{self.story()}: {'; '.join(broken)}")

    def story(self) -> str:
        """One sentence: who said what, and what came of it."""
        if not self.opinions:
            return f"no opinion yet; {self.rule.agree} must agree"
        names = {digest: f"result {place}" for place, digest in enumerate(dict.fromkeys(self._digests), 1)}
        said = ", ".join(f"{one.by.worker} {names[one.digest]} ({one.state})" for one in self.opinions)
        return f"{len(self.opinions)} of at most {self.rule.of} opinions, {self.rule.agree} must agree: {said}"

    @property
    def _digests(self) -> Sequence[str]:
        return [one.digest for one in self.opinions]


@dataclasses.dataclass(frozen=True, slots=True)
class SpotChecks:
    """Which opinions of trusted workers are checked all the same. The same for every process that has the secret."""

    secret: bytes

    def chosen(self, job_id: str, number: int, rate: float) -> bool:
        """Whether a slice is among the share `rate` of slices that is checked."""
        digest = hmac.digest(self.secret, f"{job_id}:{number}".encode(), hashlib.sha256)
        return int.from_bytes(digest[:8], "big") < rate * 2**64
