"""One line from an evaluator into one message, with limits and checks. Pure.

Two dialects share the lines (observed with dcp-client 5.6.1): outwards `MSG:{"type":"workerMessage","message":M}`,
inwards `{"type":"workerMessage","message":M}`, where M is KVIN-marshalled data. In the pipelined extension M is always
`{"_serializeVerId":"v9","what":{"raw":…}}`, which is plain JSON and needs no KVIN on this side.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

from orchestrator.worker.evaluator_messages import (
    NO_MEASUREMENT,
    Assigned,
    Completed,
    ConsoleWritten,
    Described,
    Emitted,
    Failed,
    FetchAsked,
    Measured,
    Measurement,
    Message,
    ModulesAsked,
    Noted,
    Progressed,
    Refused,
    Rejected,
    RequirementsApplied,
    StateReset,
    Violation,
)
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

#: A result's text begins near the start of its line; the evaluator writes the envelope first.
_RESULT_SEARCH: Final = 4 * KIB
_RESULT_KEY: Final = '"string":"'


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
    measurement, bad_datum = _measurement(value.get("measurement")), value.get("badDatum") is True
    return Failed(_slice_id(value), _error(value.get("error")), measurement, progressed, bad_datum)


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
