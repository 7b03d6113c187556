"""Distribution ranges: input sets whose values follow a named distribution.

A set that carries its `values` is just that list. The others are computed from index and parameters with the formulas
of dcp-client 5.6.1 (sums of logarithms are taken from the log-gamma function, so the last digits may differ). The
reference draws `random`, `randomInt`, `normalRNG` and the random form of `normal` anew each time; here a draw depends
on the job's seed and the index only, so that a slice means the same value however often it is handed out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from orchestrator.errors import InvalidInput
from orchestrator.kvin.scalars import json_number

_Params = Sequence[Any]
_Draw = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """`length` values of the distribution `name`."""

    length: int
    name: str
    params: tuple[Any, ...]
    values: tuple[Any, ...] | None
    seed: bytes

    def value(self, index: int) -> Any:
        """The value at `index`; NaN where the parameters make no sense, as in the reference. Raises `IndexError`."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside a distribution of {self.length} values")
        if self.values is not None:
            return self.values[index]
        return json_number(_FUNCTIONS[self.name](index, self.length, self.params, self._draws(index)))

    def _draws(self, index: int) -> _Draw:
        """A source of uniform numbers in [0, 1): the n-th number of this index."""

        def draw(count: int) -> float:
            digest = hashlib.blake2b(b"%d:%d" % (index, count), key=self.seed, digest_size=8).digest()
            return (int.from_bytes(digest) >> 11) / 2**53

        return draw


def parse_distribution(form: dict[str, Any], field: str, seed: str) -> Distribution:
    """Read `{length, dist, params[, values]}`. Raises InvalidInput, naming the field."""
    length, name, params, values = form.get("length"), form.get("dist"), form.get("params"), form.get("values")
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length < 0 or length != int(length):
        raise InvalidInput(f"{field}.length {length!r:.40} is not a count of values")
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise InvalidInput(f"{field}.dist {name!r:.40} is not one of {', '.join(_FUNCTIONS)}")
    if not isinstance(params, list):
        raise InvalidInput(f"{field}.params is not an array")
    if values is not None and (not isinstance(values, list) or len(values) < length):
        raise InvalidInput(f"{field}.values is not an array of {length} values")
    if values is None and name in _RANDOM_FLAG and len(params) > 1 and params[1]:
        # the reference throws as well
        raise InvalidInput(f"{field}.params: {name} has no random form; leave the second parameter out")
    key = hashlib.blake2b(f"{seed}/{field}".encode(), digest_size=32).digest()
    return Distribution(int(length), name, tuple(params), None if values is None else tuple(values[: int(length)]), key)


_RANDOM_FLAG: Final = frozenset({"poisson", "binomial"})


def _number(params: _Params, position: int, default: float = math.nan) -> float:
    value = params[position] if position < len(params) else None
    if value is None:
        return default
    return float(value) if isinstance(value, (int, float)) else math.nan


def _log(value: float) -> float:
    if math.isnan(value) or value < 0:
        return math.nan
    return -math.inf if value == 0 else math.log(value)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _random(_index: int, _length: int, params: _Params, draw: _Draw) -> float:
    low, high = _number(params, 0), _number(params, 1)
    return draw(0) * (high - low) + low


def _random_int(index: int, length: int, params: _Params, draw: _Draw) -> float:
    value = _random(index, length, params, draw)
    return math.floor(value) if math.isfinite(value) else value


def _identity(index: int, _length: int, _params: _Params, _draw: _Draw) -> float:
    return index


def _poisson(index: int, _length: int, params: _Params, _draw: _Draw) -> float:
    rate = _number(params, 0)
    if math.isnan(rate) or rate < 0:
        return math.nan
    return _exp(-rate + index * _log(rate) - math.lgamma(index + 1))


def _normal(index: int, length: int, params: _Params, draw: _Draw) -> float:
    mean, deviation = _number(params, 0, 0.0), _number(params, 1, 1.0)
    low, high = _number(params, 2), _number(params, 3)
    if len(params) > 4 and params[4]:
        low = 0.0 if math.isnan(low) else low
        high = low + length if math.isnan(high) else high
        x = draw(0) * (high - low) + low
    elif math.isnan(low):
        x = index
    elif math.isnan(high):
        x = low + index
    else:
        x = index * ((high - low) / length) + low
    distance = x - mean
    return _exp(-(distance * distance) / 2 * (deviation * deviation))


def _normal_rng(_index: int, _length: int, params: _Params, draw: _Draw) -> float:
    """One normally distributed number, by the polar method; mean before deviation, as the reference applies them."""
    deviation, mean = _number(params, 1), _number(params, 0)
    count = 0
    while True:
        u, v = draw(count) * 2 - 1, draw(count + 1) * 2 - 1
        radius = u * u + v * v
        if 0 < radius < 1:
            return u * math.sqrt(-2 * math.log(radius) / radius) * deviation + mean
        count += 2


def _binomial(index: int, length: int, params: _Params, _draw: _Draw) -> float:
    chance = _number(params, 0)
    choose = math.lgamma(length + 1) - math.lgamma(length - index + 1) - math.lgamma(index + 1)
    return _exp(choose + index * _log(chance) + (length - index) * _log(1 - chance))


_FUNCTIONS: Final[dict[str, Callable[[int, int, _Params, _Draw], float]]] = {
    "random": _random,
    "randomInt": _random_int,
    "identity": _identity,
    "poisson": _poisson,
    "normal": _normal,
    "binomial": _binomial,
    "normalRNG": _normal_rng,
}
