"""What an evaluator can say, as values. Pure. Hostile code wrote what is in them; only the form has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class Violation(Exception):
    """The sandbox broke a rule. `kind` is "flood" or "protocol"; `detail` says which rule and the figures."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Measurement:
    """The sandbox's own figures in ms. Untrusted: only used to share a kernel figure among slices of one job."""

    total: float = 0.0
    cpu: float = 0.0


NO_MEASUREMENT: Final = Measurement()


@dataclass(frozen=True, slots=True)
class Described:
    capabilities: Mapping[str, Any]
    worktimes: Any
    pipeline_depth: int
    """How many slices may be in flight; 0 when the evaluator speaks only the base dialect."""


@dataclass(frozen=True, slots=True)
class RequirementsApplied:
    pass


@dataclass(frozen=True, slots=True)
class Assigned:
    pass


@dataclass(frozen=True, slots=True)
class Refused:
    """`reject` or `error`: the assignment (or the evaluator itself) failed; `error` is the job's own text."""

    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StateReset:
    pass


@dataclass(frozen=True, slots=True)
class Measured:
    """Base dialect: the figures of the slice whose answer follows."""

    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Completed:
    """A result. `id` is None in the base dialect, where one slice runs at a time and `value` is KVIN data."""

    id: int | None
    string: str
    method: str
    mime: str
    measurement: Measurement
    progressed: bool
    value: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    id: int | None
    error: Mapping[str, Any]
    measurement: Measurement
    progressed: bool
    bad_datum: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    id: int | None
    reason: Any
    retries: Any
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Progressed:
    id: int | None
    fraction: float | None
    """0…1, None for indeterminate."""


@dataclass(frozen=True, slots=True)
class ConsoleWritten:
    """`message` is KVIN-marshalled; None repeats the one before, `same` times in all."""

    id: int | None
    level: str
    message: Any
    same: int


@dataclass(frozen=True, slots=True)
class Emitted:
    id: int | None
    name: str
    data: Any


@dataclass(frozen=True, slots=True)
class FetchAsked:
    id: int | None
    request_id: Any
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModulesAsked:
    request_id: Any
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """Something to keep for the post-mortem: a `LOG:` or `DIE:` line, or the evaluator's own complaint."""

    kind: str
    text: str


Message = (
    Described
    | RequirementsApplied
    | Assigned
    | Refused
    | StateReset
    | Measured
    | Completed
    | Failed
    | Rejected
    | Progressed
    | ConsoleWritten
    | Emitted
    | FetchAsked
    | ModulesAsked
    | Noted
)

ANSWERS: Final = (Completed, Failed, Rejected)
