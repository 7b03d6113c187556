"""Input sets that are computed, not listed: ranges, products of ranges, patterns of remote data.

Every set knows its length and any of its values at once, without making the others: a range of 10^7 slices is four
numbers. Values are those of dcp-client 5.6.1, rounding of fractional steps included.
"""

from __future__ import annotations

import abc
import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import distributions, values
from orchestrator.kvin.scalars import json_number

#: More slices than JavaScript can number are refused.
MAX_LENGTH: Final = 2**53 - 1
_MAX_SELECTION_DEPTH: Final = 4
_MAX_VALUE_DEPTH: Final = 200


class InputSet(abc.ABC):
    """The input values of a job. Indices are 0-based; slice n has index n-1."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """How many slices."""

    @abc.abstractmethod
    def value(self, index: int) -> Any:
        """The value of a slice. Raises IndexError outside of the set."""

    def uri(self, index: int) -> str:
        """The value as the URI that a worker gets. Raises IndexError outside of the set."""
        return _uri(self.value(index))


def _uri(value: Any) -> str:
    if type(value) is int:
        return f"data:application/json,{value}"
    try:
        return values.json_uri(value)
    except InvalidInput:  # NaN and infinities, alone or inside a tuple
        return values.kvin_uri(value)


@dataclasses.dataclass(frozen=True)
class RangeObject(InputSet):
    """Numbers from `start` towards `end` (included if met) in steps; or arrays of `group` such numbers, the last short.

    `step` may be anything when start equals end, and is not 0 otherwise.
    """

    start: float
    end: float
    step: float
    group: int | None = None
    count: int = dataclasses.field(init=False)
    """how many numbers, however grouped"""

    def __post_init__(self) -> None:
        steps = abs((float(self.end) - float(self.start)) / float(self.step)) if self.step else 0.0
        if not steps < MAX_LENGTH:
            raise InvalidInput(f"range from {self.start} to {self.end} by {self.step} has too many values")
        object.__setattr__(self, "count", math.floor(steps) + 1)

    @property
    def length(self) -> int:
        return self.count if self.group is None else -(-self.count // self.group)

    def value(self, index: int) -> Any:
        """The value at `index`, from 0 on. Raises `IndexError`."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside a range of {self.length}")
        # in the order of operations of the reference, in which floats round
        if self.group is None:
            return json_number(self.start + index * self.step)
        first = float(self.group) * self.step * index + self.start
        size = min(self.group, self.count - index * self.group)
        return [json_number(first + n * self.step) for n in range(size)]

    def __contains__(self, number: object) -> bool:
        """Whether a number is among the values, groups apart."""
        if not isinstance(number, (int, float)):
            return False
        index = round((number - self.start) / self.step) if self.step else 0
        return 0 <= index < self.count and self.start + index * self.step == number


@dataclasses.dataclass(frozen=True)
class Concatenation(InputSet):
    """One range after the other (SparseRangeObject)."""

    ranges: tuple[RangeObject, ...]
    ends: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(itertools.accumulate(part.length for part in self.ranges)))

    @property
    def length(self) -> int:
        return self.ends[-1]

    def value(self, index: int) -> Any:
        """The value at `index`, from 0 on. Raises `IndexError`."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside a sparse range of {self.length}")
        part = bisect.bisect_right(self.ends, index)
        return self.ranges[part].value(index - (self.ends[part - 1] if part else 0))


@dataclasses.dataclass(frozen=True)
class Product(InputSet):
    """Every combination of the members' values, as arrays; the last member runs fastest (MultiRangeObject)."""

    members: tuple[RangeObject | Listed | Computed, ...]

    @property
    def length(self) -> int:
        return math.prod(member.length for member in self.members)

    def value(self, index: int) -> Any:
        """The value at `index`, from 0 on. Raises `IndexError`."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside a product of {self.length}")
        combination = []
        for member in reversed(self.members):
            index, place = divmod(index, member.length)
            combination.append(member.value(place))
        return combination[::-1]


@dataclasses.dataclass(frozen=True)
class Listed(InputSet):
    """Values that came with the job as JSON."""

    items: tuple[Any, ...]

    @property
    def length(self) -> int:
        return len(self.items)

    def value(self, index: int) -> Any:
        return self.items[_checked(index, len(self.items))]


@dataclasses.dataclass(frozen=True)
class Computed(InputSet):
    """The values of a distribution."""

    distribution: distributions.Distribution

    @property
    def length(self) -> int:
        return self.distribution.length

    def value(self, index: int) -> Any:
        return self.distribution.value(index)


@dataclasses.dataclass(frozen=True)
class RemotePattern(InputSet):
    """Remote data (RemoteDataPattern): `{slice}` in the pattern stands for the slice number, from 1."""

    pattern: str
    length_: int

    @property
    def length(self) -> int:
        return self.length_

    def value(self, index: int) -> kvin.Url:
        return kvin.Url(self.uri(index))

    def uri(self, index: int) -> str:
        return self.pattern.replace("{slice}", str(_checked(index, self.length_) + 1))


@dataclasses.dataclass(frozen=True)
class Located(InputSet):
    """URIs that came with the job, one per slice (a job that runs on the deployer's machine)."""

    uris: tuple[str, ...]

    @property
    def length(self) -> int:
        return len(self.uris)

    def value(self, index: int) -> kvin.Url:
        return kvin.Url(self.uri(index))

    def uri(self, index: int) -> str:
        return self.uris[_checked(index, len(self.uris))]


@dataclasses.dataclass(frozen=True)
class LocatedRange(InputSet):
    """A range that only its reader can open: `location` holds it, slice n takes its n-th value.

    Its slices have no URI of their own; hand out `location` instead.
    """

    location: str
    length_: int

    @property
    def length(self) -> int:
        return self.length_

    def value(self, index: int) -> Any:
        raise InvalidInput(f"the values of {self.location} are only known where it can be read")


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"index {index} is outside an input set of {length}")
    return index


# -- reading ---------------------------------------------------------------------------------------------------------


def parse_input_set(form: Any, *, seed: str = "") -> InputSet:
    """Read the input set of a `submit@5` request, or a bare `dataRange`.

    Looks for `dataPattern` with `sliceCount`, `marshaledDataValues`, `dataRange` with or without `rangeLength`.
    `seed` (say, the job id) determines what random distributions draw.

    Raises:
        InvalidInput: not one of the known forms; the message names the field. Listed input, which comes later and
            has none of these fields, is not for this function.
    """
    if isinstance(form, Mapping):
        if form.get("dataPattern") is not None:
            return _parse_pattern(form["dataPattern"], form.get("sliceCount"))
        if form.get("marshaledDataValues") is not None:
            uris = _parse_uris(form["marshaledDataValues"], "marshaledDataValues")
            return Located(uris)
        if form.get("dataRange") is not None:
            if form.get("rangeLength") is not None:
                (location, *_) = (*_parse_uris(form["dataRange"], "dataRange"), "")
                return LocatedRange(location, _parse_count(form["rangeLength"], "rangeLength", least=0))
            return _sized(parse_range(form["dataRange"], "dataRange", seed), "dataRange")
    return _sized(parse_range(form, "dataRange", seed), "dataRange")


def parse_range(form: Any, field: str, seed: str) -> InputSet:
    """Read one range form. Raises InvalidInput, naming `field` and the part of it."""
    if isinstance(form, list):
        return _parse_listed(form, field)
    if not isinstance(form, Mapping):
        raise InvalidInput(f"{field} {form!r:.40} is not a range")
    if form.get("sparse"):
        return _parse_sparse(form, field)
    if isinstance(form.get("ranges"), list):
        members = [_parse_member(part, f"{field}.ranges[{i}]", seed) for i, part in enumerate(form["ranges"])]
        return Product(tuple(members))
    if _is_range(form):
        return _parse_range_object(form, field)
    if _is_distribution(form):
        return Computed(distributions.parse_distribution(dict(form), field, seed))
    raise InvalidInput(f"{field} is not a range: it has neither start and end, nor ranges, nor dist with length")


def _sized(inputs: InputSet, field: str) -> InputSet:
    if inputs.length > MAX_LENGTH:
        raise InvalidInput(f"{field} has {inputs.length} slices, more than {MAX_LENGTH}")
    return inputs


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_range(form: Any) -> bool:
    return isinstance(form, Mapping) and _is_number(form.get("start")) and _is_number(form.get("end"))


def _is_distribution(form: Any) -> bool:
    return (
        isinstance(form, Mapping)
        and _is_number(form.get("length"))
        and isinstance(form.get("dist"), str)
        and isinstance(form.get("params"), list)
    )


def _parse_member(form: Any, field: str, seed: str) -> RangeObject | Listed | Computed:
    """A member of a product. What is neither a range nor an array is a set of one value (as in the reference)."""
    if _is_range(form):
        return _parse_range_object(form, field)
    if _is_distribution(form):
        return Computed(distributions.parse_distribution(form, field, seed))
    return _parse_listed(form if isinstance(form, list) else [form], field)


def _parse_listed(items: list[Any], field: str) -> Listed:
    """Values as they are; but what could not be written again later is refused now."""
    level = items
    for _ in range(_MAX_VALUE_DEPTH):
        level = [inner for item in level if isinstance(item, (list, dict)) for inner in _children(item)]
        if not level:
            return Listed(tuple(items))
    raise InvalidInput(f"{field} has values nested deeper than {_MAX_VALUE_DEPTH} levels")


def _children(item: list[Any] | dict[str, Any]) -> list[Any]:
    return item if isinstance(item, list) else list(item.values())


def _parse_sparse(form: Mapping[str, Any], field: str) -> Concatenation:
    parts = form.get("ranges")
    if not isinstance(parts, list) or not parts:
        raise InvalidInput(f"{field}.ranges is not an array of ranges")
    for index, part in enumerate(parts):
        if not _is_range(part):
            raise InvalidInput(f"{field}.ranges[{index}] is not a range with start and end")
    ranges = tuple(_parse_range_object(part, f"{field}.ranges[{index}]") for index, part in enumerate(parts))
    if ranges[0].group is not None and any(part.group != ranges[0].group for part in ranges):
        raise InvalidInput(f"{field}.ranges: all ranges must have the group of the first")
    return Concatenation(ranges)


def _parse_range_object(form: Mapping[str, Any], field: str) -> RangeObject:
    start, end = (_finite(form[name], f"{field}.{name}") for name in ("start", "end"))
    direction = (end > start) - (end < start)
    step = _finite(form["step"], f"{field}.step") if form.get("step") is not None else direction
    if direction and (step > 0) - (step < 0) != direction:
        raise InvalidInput(f"{field}.step {step} does not lead from start {start} to end {end}")
    group = form.get("group")
    if group is not None:
        group = _parse_count(group, f"{field}.group", least=1)
    return RangeObject(start, end, step, group)


def _finite(value: Any, field: str) -> int | float:
    try:
        finite = _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no double holds
        finite = False
    if not finite:
        raise InvalidInput(f"{field} {value!r:.40} is not a finite number")
    # beyond 2^53 arithmetic has to round as JavaScript's does
    return json_number(value)


def _parse_count(value: Any, field: str, *, least: int) -> int:
    if not _is_number(value) or not least <= value <= MAX_LENGTH or value != int(value):
        raise InvalidInput(f"{field} {value!r:.40} is not a whole number of at least {least}")
    return int(value)


def _parse_pattern(pattern: Any, count: Any) -> RemotePattern:
    if not isinstance(pattern, str) or not pattern.lower().startswith(("http://", "https://")):
        raise InvalidInput(f"dataPattern {pattern!r:.80} is not an http(s) URL")
    pattern = pattern.replace("%7Bslice%7D", "{slice}")
    if "{slice}" not in pattern:
        raise InvalidInput(f"dataPattern {pattern!r:.80} does not contain {{slice}}")
    return RemotePattern(pattern, _parse_count(count, "sliceCount", least=1))


def _parse_uris(form: Any, field: str) -> tuple[str, ...]:
    """An array of URIs; or the array-like object `{"0": uri, …, "length": n}` that dcp-client sends."""
    if isinstance(form, Mapping):
        length = _parse_count(form.get("length"), f"{field}.length", least=0)
        if length != len(form) - 1:
            raise InvalidInput(f"{field} has {len(form) - 1} elements but length {length}")
        form = [form.get(str(index)) for index in range(length)]
    if not isinstance(form, Sequence) or isinstance(form, str) or not all(isinstance(uri, str) for uri in form):
        raise InvalidInput(f"{field} is not an array of URIs")
    return tuple(form)


# -- selections of slices --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SliceSelection:
    """Which slices a `fetchResult` asks for. `parts` of None: all."""

    parts: tuple[RangeObject | frozenset[Any], ...] | None

    def __contains__(self, slice_number: int) -> bool:
        return self.parts is None or any(slice_number in part for part in self.parts)

    def explicit(self) -> list[int] | None:
        """The slice numbers, ascending, when they were listed one by one; None when they were given by ranges."""
        if self.parts is None or any(isinstance(part, RangeObject) for part in self.parts):
            return None
        return sorted({number for part in self.parts if isinstance(part, frozenset) for number in part})


def parse_slice_selection(form: Any, field: str = "range") -> SliceSelection:
    """Read the `range` of a `fetchResult`: nothing (all), slice numbers, or ranges of them.

    The forms with several ranges select the slices of any of them. Raises InvalidInput, naming the field.
    """
    return SliceSelection(None if form is None else tuple(_selected(form, field)))


def _selected(form: Any, field: str, depth: int = 0) -> list[RangeObject | frozenset[Any]]:
    if depth > _MAX_SELECTION_DEPTH:
        raise InvalidInput(f"{field} is nested too deep")
    if _is_number(form):
        return [frozenset((form,))]
    if isinstance(form, list):
        if all(_is_number(number) for number in form):
            return [frozenset(form)]
        return [part for i, item in enumerate(form) for part in _selected(item, f"{field}[{i}]", depth + 1)]
    if _is_range(form):
        return [_parse_range_object(form, field)]
    if isinstance(form, Mapping) and isinstance(form.get("ranges"), list):
        return [
            part for i, item in enumerate(form["ranges"]) for part in _selected(item, f"{field}.ranges[{i}]", depth + 1)
        ]
    raise InvalidInput(f"{field} {form!r:.40} is neither an array of slice numbers nor a range of them")
