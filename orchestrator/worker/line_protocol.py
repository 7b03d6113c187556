"""The evaluator's lines: bytes from a sandbox into bounded lines and messages, requests into lines.

Pure. Everything that arrives was written by hostile code: a work function that has broken out of its realm owns the
whole process and may write any byte. So each line is bounded in length, rate and total before it is parsed, parsed with
limits, and checked field by field; what is wrong raises `Violation`, and the sandbox is killed for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from orchestrator.worker.evaluator_messages import ANSWERS, Message, Violation
from orchestrator.worker.evaluator_parsing import parse
from orchestrator.worker.limits import KIB, OutputLimits

_FREE_FRAME_BYTES: Final = 4 * KIB
_FRAMES_PER_ANSWER: Final = 4


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
        """`frames` is in how many writes the chunk came, `now` in seconds. Raises `Violation`."""
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


_OPEN: Final = b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":'
_CLOSE: Final = b"}}}\n"


def request_line(message: Mapping[str, Any]) -> bytes:
    """A request as plain JSON. ASCII only, so that no byte of it can be mistaken for the end of a line."""
    return _OPEN + json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + _CLOSE


def main_line(identifier: int, datum_uri: str) -> bytes:
    """The request that runs one slice (pipelined dialect). The hot path: no dictionary, no generic encoder."""
    text = f'{{"request":"main","id":{identifier},"datumUri":{encode_basestring_ascii(datum_uri)}}}'
    return _OPEN + text.encode("ascii") + _CLOSE
