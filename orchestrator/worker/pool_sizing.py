"""Pure: how many sandboxes to keep ready, and how much CPU time may go into making them.

Four questions, one class each: what would the recent hand-outs have needed (`Burst`), what does a start cost
(`StartCosts`), how much of that may be spent while slices run (`RefillBudget`), and can it wait for a core that has
nothing else to do (`Deferral`). `target` puts the answers together.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics

_KEPT = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the machine that runs the sandboxes: all, and what could be had now without swapping."""

    total: int
    available: int


@dataclasses.dataclass(frozen=True, slots=True)
class SizingRules:
    """`fixed` sandboxes are kept ready; when it is None, as many as the hand-outs need, from `least` to `most`.

    `reserve_bytes` of memory are left to others, whatever the demand.
    """

    fixed: int | None = None
    least: int = 1
    most: int = 16
    sandbox_bytes: int = 512 << 20
    reserve_bytes: int = 512 << 20


def memory_room(total: int, sandbox_bytes: int, reserve_bytes: int) -> int:
    """How many sandboxes fit into a machine if each takes all that it may. At least one."""
    return max((total - reserve_bytes) // sandbox_bytes, 1)


def target(rules: SizingRules, peak: float, memory: Memory | None, in_use: int, idle: int) -> int:
    """How many sandboxes should be ready. `peak` is `Burst.peak`; `idle` are ready or starting, `in_use` at work.

    `memory` is None where it is not known. No more are planned than the machine holds if every sandbox grew to its
    limit, and no more are added than fit into what is free now.
    """
    wanted = rules.fixed
    if wanted is None:
        # Rounding up forgives a trace that has almost faded.
        wanted = min(max(rules.least, math.ceil(peak - 0.05)), rules.most)
    if memory is None:
        return wanted
    planned = memory_room(memory.total, rules.sandbox_bytes, rules.reserve_bytes) - in_use
    free_now = idle + max(memory.available - rules.reserve_bytes, 0) // rules.sandbox_bytes
    return max(min(wanted, planned, free_now), 0)


def default_sizes(cores: int, memory: Memory | None, sandbox_bytes: int, reserve_bytes: int) -> tuple[int, int]:
    """How many sandboxes may keep cores busy, and how many there may be when jobs wait, where nobody says it."""
    room = 4 * cores if memory is None else memory_room(memory.total, sandbox_bytes, reserve_bytes)
    return min(cores, room), min(4 * cores, room)


class Burst:
    """How many ready sandboxes the recent hand-outs would have needed so that each was a hit.

    A leaky bucket: a hand-out pours one in; what the pool can make drains it, from one start's time after the bucket
    was last empty. The level is what a full pool would be short of, so a pool of the level's peak had never been empty.
    The peak fades with `half_life_s`: what was needed an hour ago says little.
    """

    def __init__(self, half_life_s: float = 300.0) -> None:
        self._half_life_s = half_life_s
        self._level = 0.0
        self._peak = 0.0
        self._at = 0.0
        self._drains_from = 0.0

    def handed_out(self, now: float, start_s: float, rate: float) -> None:
        """One hand-out. `rate` starts can be made per second, the first taking `start_s`."""
        self._settle(now, rate)
        if self._level <= 0.0:
            self._drains_from = now + start_s
        self._level += 1.0
        self._peak = max(self._peak, self._level)

    def peak(self, now: float) -> float:
        return self._peak * math.pow(0.5, max(now - self._at, 0.0) / self._half_life_s)

    def _settle(self, now: float, rate: float) -> None:
        drained_s = max(now - max(self._at, self._drains_from), 0.0)
        self._level = max(self._level - drained_s * rate, 0.0)
        self._peak = self.peak(now)
        self._at = max(self._at, now)


class StartCosts:
    """What a start takes, from those that were observed: seconds of waiting, and core-seconds of work.

    A start is little else than work, one step after the other (the Engine, the container runtime, Node): the shortest
    of the last few, which waited least for a core, is close to what it costs (0.15 to 0.2 core-seconds, measured).
    """

    def __init__(self, first_guess_s: float = 0.2) -> None:
        self._times: collections.deque[float] = collections.deque(maxlen=_KEPT)
        self._guess = first_guess_s

    def add(self, seconds: float) -> None:
        self._times.append(seconds)

    @property
    def wall_s(self) -> float:
        return statistics.median(self._times) if self._times else self._guess

    @property
    def core_s(self) -> float:
        return min(max(min(self._times), 0.02), 1.0) if self._times else self._guess


class RefillBudget:
    """Core-seconds that may go into starts; fills at a rate that the caller knows at each moment.

    Starts that somebody waits for are charged too, without asking: the debt is paid before more are made ahead of need.
    """

    def __init__(self) -> None:
        self._level = math.inf
        self._at = 0.0

    def advance(self, now: float, rate: float, most: float) -> None:
        """`rate` core-seconds came in per second since the last time; `most` may lie ready, or be owed."""
        self._level = min(self._level + rate * max(now - self._at, 0.0), most)
        self._level = max(self._level, -most)
        self._at = max(self._at, now)

    def affords(self, cost: float) -> bool:
        return self._level >= cost - 1e-9

    def spend(self, cost: float) -> None:
        self._level -= cost

    def wait_s(self, cost: float, rate: float) -> float:
        """How long until `cost` can be afforded at that rate."""
        return max(cost - self._level, 0.0) / rate


class Deferral:
    """Whether starts ahead of need should wait: while sandboxes keep every core busy, for at most `longest_s`.

    Nobody can tell when the next job comes. If it comes while all cores are busy, it finds what is ready, and is served
    at once with what it waits for beyond that; else a start later on takes nothing from slices.
    """

    def __init__(self, longest_s: float = 60.0, apart_s: float = 0.5, free: float = 0.5) -> None:
        self._longest_s = longest_s
        self._apart_s = apart_s
        self._free = free
        self._since = math.inf
        self._looked_at = 0.0
        self._used_s = 0.0

    def wait_s(self, now: float, used_s: float, cores: float) -> float:
        """How long until a start may be made, or this is to be asked again. `used_s`: core-seconds of all sandboxes."""
        if self._since == math.inf:
            self._since = self._looked_at = now
            self._used_s = used_s
        if now - self._since >= self._longest_s:
            return 0.0
        passed = now - self._looked_at
        if passed < self._apart_s:
            return self._apart_s - passed
        busy = (used_s - self._used_s) / passed
        self._looked_at, self._used_s = now, used_s
        return 0.0 if cores - busy >= self._free else self._apart_s

    def over(self) -> None:
        """Nothing is wanted at this moment."""
        self._since = math.inf


def refill_rate(cores: float, share: float, busy: int) -> float:
    """Core-seconds per second for starts: the cores that no slice uses, and at least `share` of all of them."""
    return max(share * cores, cores - busy)
