"""The evaluator's line protocol: bytes from a sandbox into bounded lines, lines into messages, requests into lines.

Pure. Everything that arrives was written by hostile code: a work function that has broken out of its realm owns the
whole process and may write any byte. So each line is bounded in length, rate and total before it is parsed, parsed with
limits, and checked field by field; what is wrong raises `Violation`, and the sandbox is killed for it.

Two dialects share the lines (observed with dcp-client 5.6.1): outwards `MSG:{"type":"workerMessage","message":M}`,
inwards `{"type":"workerMessage","message":M}`, where M is KVIN-marshalled data. In the pipelined extension M is always
`{"_serializeVerId":"v9","what":{"raw":…}}`, which is plain JSON and needs no KVIN on this side.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from orchestrator.worker.limits import KIB, OutputLimits

#: Ring → requests that may come from it (observed with dcp-client 5.6.1). Ring 3 is the job's own code.
RINGS: Final[Mapping[int, frozenset[str]]] = {
    0: frozenset({"__sandboxLoaded", "scriptLoaded", "error", "unrecoverable-evaluator"}),
    1: frozenset({"applyRequirementsDone"}),
    2: frozenset({"describe", "resetStateDone", "assigned", "dependency", "fetchRequest", "error", "reject"}),
    3: frozenset(
        {
            "progress",
            "noProgress",
            "console",
            "emitEvent",
            "measurement",
            "complete",
            "workError",
            "workReject",
            "sandboxError",
            "fetchRequest",
        }
    ),
}

_FREE_FRAME_BYTES: Final = 4 * KIB
_FRAMES_PER_ANSWER: Final = 4
#: A result's text begins near the start of its line; the evaluator writes the envelope first.
_RESULT_SEARCH: Final = 4 * KIB
_RESULT_KEY: Final = '"string":"'


class Violation(Exception):
    """The sandbox broke a rule. `kind` is "flood" or "protocol"; `detail` says which rule and the figures."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


# ---------------------------------------------------------------------------------------------------- messages


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


# ------------------------------------------------------------------------------------------------ lines from bytes


class LineSplitter:
    """Chunks in, whole lines out, however the chunks were cut. Holds at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of the line that has not ended."""
        return self._held

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in `chunk`, without their line feed. Raises Violation("flood") on one over the limit."""
        lines = chunk.split(b"\n")
        if self._held:
            # The held parts are joined only when their line ends: a long line costs linear time, not quadratic.
            if len(lines) == 1:
                self._hold(chunk)
                return []
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
        rest = lines.pop()
        for line in lines:
            if len(line) > self._limit:
                raise Violation("flood", f"a line of {len(line)} bytes, over the limit of {self._limit}")
        if rest:
            self._hold(rest)
        return lines

    def _hold(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._limit:
            raise Violation("flood", f"a line of more than {self._limit} bytes")


class Bucket:
    """A token bucket; `now` is a parameter. Starts full."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def take(self, count: float, now: float) -> bool:
        """Whether `count` tokens were there. They are gone in any case."""
        if self._filled_at is not None and now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        self._tokens -= count
        return self._tokens >= 0


class OutputReader:
    """Standard output of one sandbox: chunks in, messages out, within `limits`.

    `feed` returns pairs (message or None, bytes of its line with the line feed); None is a line without meaning.
    After a Violation the reader must not be used again.
    """

    def __init__(self, limits: OutputLimits, unmarshal: Callable[[Any], Any]) -> None:
        self._limits = limits
        self._unmarshal = unmarshal
        self._splitter = LineSplitter(limits.line_bytes)
        self._lines = Bucket(limits.lines_per_s, limits.lines_burst)
        self._messages = Bucket(limits.message_bytes_per_s, limits.message_bytes_burst)
        self._frames = Bucket(limits.frames_per_s, limits.frames_burst)
        self._since_answer = 0
        self.total_bytes = 0
        self.total_lines = 0
        self.total_frames = 0

    def feed(self, chunk: bytes, frames: int, now: float) -> list[tuple[Message | None, int]]:
        limits = self._limits
        self.total_bytes += len(chunk)
        self.total_frames += frames
        self._since_answer += len(chunk)
        if self.total_bytes > limits.total_bytes:
            raise Violation("flood", f"more than {limits.total_bytes} bytes of output in one sandbox's life")
        out: list[tuple[Message | None, int]] = []
        answers = other_bytes = 0
        for line in self._splitter.feed(chunk):
            message = parse(line, limits, self._unmarshal)
            size = len(line) + 1
            if isinstance(message, ANSWERS):
                answers += 1
            else:
                other_bytes += size
            out.append((message, size))
        self.total_lines += len(out)
        if answers:
            self._since_answer = self._splitter.held
        elif self._since_answer > limits.slice_bytes:
            raise Violation("flood", f"more than {limits.slice_bytes} bytes of output without a result")
        if not self._lines.take(len(out) - answers, now):
            raise Violation(
                "flood", f"more than {limits.lines_per_s:g} lines/s beyond {limits.lines_burst:g} that are no result"
            )
        if not self._messages.take(other_bytes, now):
            raise Violation(
                "flood",
                f"more than {limits.message_bytes_per_s:g} bytes/s beyond {limits.message_bytes_burst:g} "
                "that are no result",
            )
        paid = frames - len(chunk) // _FREE_FRAME_BYTES - _FRAMES_PER_ANSWER * answers
        if not self._frames.take(max(paid, 0), now):
            raise Violation("flood", f"more than {limits.frames_per_s:g} small writes/s beyond {limits.frames_burst:g}")
        return out


# ------------------------------------------------------------------------------------------------ messages from lines


def parse(line: bytes, limits: OutputLimits, unmarshal: Callable[[Any], Any]) -> Message | None:
    """One line into a message; None for a line without meaning (an acknowledgement, or text that is no message).

    Raises Violation("protocol") for a `MSG:` line that is not what the protocol allows. `unmarshal` decodes KVIN data
    that is not plain JSON (base dialect) and raises ValueError or an OrchestratorError when it cannot.
    """
    if not line.startswith(b"MSG:"):
        return _note(line)
    result_text: str | None = None
    try:
        text = line[4:].decode("utf-8")
        if len(line) > limits.message_bytes:
            text, result_text = _lift_result(text, limits.message_bytes)
        envelope = _decode(text, limits.depth)
    except (ValueError, RecursionError) as exc:
        raise Violation("protocol", f"a message that is not JSON: {str(exc)[:200]}") from exc
    if not isinstance(envelope, dict):
        raise Violation("protocol", "a message that is not an object")
    kind = envelope.get("type")
    if kind in ("result", "nop"):
        return None
    if kind != "workerMessage":
        raise Violation("protocol", f"a message of type {_short(kind)}")
    message = _interpret(_contents(envelope.get("message"), unmarshal), limits)
    if result_text is not None:
        if not isinstance(message, Completed) or message.string != "":
            raise Violation("protocol", f"a message of {len(line)} bytes that is no result")
        message = replace(message, string=result_text)
    return message


def _note(line: bytes) -> Noted | None:
    for prefix in (b"LOG:", b"DIE:"):
        if line.startswith(prefix):
            return Noted(prefix[:3].decode().lower(), line[4:2052].decode("utf-8", "replace").strip())
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(text: str, depth: int) -> Any:
    # A line with few brackets cannot be deep, and counting is far cheaper than walking.
    if text.count("[") + text.count("{") > depth and _deeper_than(text, depth):
        raise ValueError(f"nested deeper than {depth}")
    return _DECODER.decode(text)


_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^\[\]{}]+")
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def _deeper_than(text: str, limit: int) -> bool:
    """Whether brackets outside of strings nest deeper than `limit`. Only called for lines with many brackets."""
    brackets = _NO_BRACKETS.sub("", _STRINGS.sub("", text))
    return any(depth > limit for depth in itertools.accumulate(map(_STEPS.__getitem__, brackets)))


def _lift_result(text: str, shell_limit: int) -> tuple[str, str]:
    """Take the text of a long result out of its line, so that only a short line is parsed as structure.

    A long line of nothing but brackets would cost thirty times its length in memory; a long string costs its length.
    """
    key = text.find(_RESULT_KEY, 0, _RESULT_SEARCH)
    if key < 0:
        raise ValueError("a long line that holds no result")
    start = key + len(_RESULT_KEY)
    result, end = scanstring(text, start)
    shell = text[:start] + text[end - 1 :]
    if len(shell) > shell_limit:
        raise ValueError(f"more than {shell_limit} characters around a result")
    return shell, result


def _contents(message: Any, unmarshal: Callable[[Any], Any]) -> Any:
    if not isinstance(message, dict):
        raise Violation("protocol", "a worker message without contents")
    what = message.get("what")
    if isinstance(what, dict) and len(what) == 1 and "raw" in what:
        return what["raw"]
    try:
        return unmarshal(message)
    except RecursionError as exc:
        raise Violation("protocol", "KVIN data nested too deep") from exc
    except Exception as exc:
        raise Violation("protocol", f"KVIN data that cannot be decoded: {str(exc)[:200]}") from exc


def _interpret(contents: Any, limits: OutputLimits) -> Message | None:
    if not isinstance(contents, dict):
        raise Violation("protocol", "a worker message whose contents are not an object")
    ring = contents.get("ringSource")
    value = contents.get("value")
    if not isinstance(value, dict) or type(ring) is not int:
        raise Violation("protocol", "a worker message without ring or value")
    request = value.get("request")
    if not isinstance(request, str):
        raise Violation("protocol", "a worker message without a request")
    allowed = RINGS.get(ring)
    if allowed is None or (request not in allowed and not (ring == 2 and request.startswith("evalResult::"))):
        raise Violation("protocol", f"request {_short(request)} from ring {ring}")
    reader = _READERS.get(request)
    return reader(value) if reader is not None else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _slice_id(value: Mapping[str, Any]) -> int | None:
    identifier = value.get("id")
    if identifier is None:
        return None
    if type(identifier) is not int:
        raise Violation("protocol", f"a slice id that is no integer: {_short(identifier)}")
    return identifier


def _figure(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    return 0.0


def _measurement(value: Any) -> Measurement:
    if not isinstance(value, dict):
        return NO_MEASUREMENT
    return Measurement(_figure(value.get("total")), _figure(value.get("CPU")))


def _error(value: Any) -> Mapping[str, Any]:
    """An error as the job reported it, cut to what may travel: strings of at most 16 KiB, never anything else."""
    if isinstance(value, str):
        return {"name": "Error", "message": value[: 16 * KIB]}
    if not isinstance(value, dict):
        return {"name": "Error", "message": "an error that is not an object"}
    error = {key: str(value[key])[: 16 * KIB] for key in ("name", "message", "stack", "code") if _textual(value, key)}
    error.setdefault("name", "Error")
    error.setdefault("message", "")
    return error


def _textual(value: Mapping[str, Any], key: str) -> bool:
    return isinstance(value.get(key), (str, int, float))


def _described(value: Mapping[str, Any]) -> Message:
    # The base dialect nests the fields under `capabilities`; ours adds `extensions` beside them.
    capabilities = value.get("capabilities")
    extensions = value.get("extensions")
    pipeline = extensions.get("pipeline") if isinstance(extensions, dict) else None
    depth = 0
    if isinstance(pipeline, dict) and pipeline.get("version") == 1:
        offered = pipeline.get("depth")
        if type(offered) is int and offered > 0:
            depth = min(offered, 4096)
    return Described(capabilities if isinstance(capabilities, dict) else {}, value.get("worktimes"), depth)


def _completed(value: Mapping[str, Any]) -> Message:
    result = value.get("result")
    identifier = _slice_id(value)
    progressed = value.get("progressed") is True
    measurement = _measurement(value.get("measurement"))
    if identifier is None:
        return Completed(None, "", "", "", measurement, progressed, result)
    if not isinstance(result, dict):
        raise Violation("protocol", "a result that is not an object")
    string, method, mime = result.get("string"), result.get("method"), result.get("MIMEType")
    if not isinstance(string, str) or method not in ("json", "kvin") or not isinstance(mime, str) or len(mime) > 127:
        raise Violation("protocol", "a result without string, method or MIMEType")
    return Completed(identifier, string, method, mime, measurement, progressed)


def _failed(value: Mapping[str, Any]) -> Message:
    progressed = value.get("progressed") is True
    return Failed(_slice_id(value), _error(value.get("error")), _measurement(value.get("measurement")), progressed)


def _rejected(value: Mapping[str, Any]) -> Message:
    data = value.get("workRejectData")
    source = data if isinstance(data, dict) else value
    measurement = _measurement(value.get("measurement"))
    return Rejected(_slice_id(value), source.get("reason"), source.get("retries"), measurement)


def _progressed(value: Mapping[str, Any]) -> Message:
    percent = value.get("progress")
    if isinstance(percent, (int, float)) and not isinstance(percent, bool) and math.isfinite(percent):
        return Progressed(_slice_id(value), min(max(percent / 100.0, 0.0), 1.0))
    return Progressed(_slice_id(value), None)


def _console(value: Mapping[str, Any]) -> Message:
    source = _payload(value)
    level, same = source.get("level"), source.get("same", 1)
    if level not in ("log", "debug", "info", "warn", "error"):
        raise Violation("protocol", f"a console line of level {_short(level)}")
    if type(same) is not int or same < 0:
        same = 1
    return ConsoleWritten(_slice_id(value), level, source.get("message"), same)


def _payload(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Console lines and events carry their fields in `payload` (observed with dcp-client 5.6.1)."""
    payload = value.get("payload")
    return payload if isinstance(payload, dict) else value


def _emitted(value: Mapping[str, Any]) -> Message:
    source = _payload(value)
    name = source.get("customEvent") if source.get("eventName") == "custom" else None
    if not isinstance(name, str) or len(name) > 4 * KIB:
        raise Violation("protocol", f"an event whose name is {_short(name)}")
    return Emitted(_slice_id(value), name, source.get("data"))


def _fetch_asked(value: Mapping[str, Any]) -> Message:
    data = value.get("data")
    if not isinstance(data, dict):
        raise Violation("protocol", "a fetch request without data")
    # In the base dialect `id` is the request's own; in the pipelined one it is the slice's.
    if "fetchId" in value:
        return FetchAsked(_slice_id(value), value["fetchId"], data)
    return FetchAsked(None, value.get("id"), data)


def _modules_asked(value: Mapping[str, Any]) -> Message:
    names = value.get("data")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Violation("protocol", "a dependency request that is no list of names")
    return ModulesAsked(value.get("id"), tuple(names))


def _refused(value: Mapping[str, Any]) -> Message:
    return Refused(_error(value.get("error", value.get("message"))))


def _sandbox_error(value: Mapping[str, Any]) -> Message:
    return Noted("sandboxError", json.dumps(_error(value.get("error")))[:2048])


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Message | None]]] = {
    "describe": _described,
    "applyRequirementsDone": lambda _value: RequirementsApplied(),
    "assigned": lambda _value: Assigned(),
    "reject": _refused,
    "error": _refused,
    "unrecoverable-evaluator": _refused,
    "resetStateDone": lambda _value: StateReset(),
    "measurement": lambda value: Measured(_measurement(value.get("measurement", value))),
    "complete": _completed,
    "workError": _failed,
    "workReject": _rejected,
    "progress": _progressed,
    "console": _console,
    "emitEvent": _emitted,
    "fetchRequest": _fetch_asked,
    "dependency": _modules_asked,
    "sandboxError": _sandbox_error,
}


# ------------------------------------------------------------------------------------------------ requests into lines

_OPEN: Final = b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":'
_CLOSE: Final = b"}}}\n"

DIE: Final = b'{"type":"die"}\n'


def request_line(message: Mapping[str, Any]) -> bytes:
    """A request as plain JSON. ASCII only, so that no byte of it can be mistaken for the end of a line."""
    return _OPEN + json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + _CLOSE


def main_line(identifier: int, datum_uri: str) -> bytes:
    """The request that runs one slice (pipelined dialect). The hot path: no dictionary, no generic encoder."""
    text = f'{{"request":"main","id":{identifier},"datumUri":{encode_basestring_ascii(datum_uri)}}}'
    return _OPEN + text.encode("ascii") + _CLOSE


def marshalled_line(marshalled: Any) -> bytes:
    """A request of the base dialect: `marshalled` is KVIN-marshalled data."""
    envelope = {"type": "workerMessage", "message": marshalled}
    return json.dumps(envelope, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def join(lines: Iterable[bytes]) -> bytes:
    return b"".join(lines)
