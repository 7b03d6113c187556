"""Drives the Evaluator's host program as a plain process, line by line."""

from __future__ import annotations

import json
import os
import pathlib
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

HOST = pathlib.Path(__file__).parents[3] / "sandbox_image" / "host"
FLAGS: list[str] = json.loads((HOST / "flags.json").read_text())
ENDS = ("complete", "workError", "workReject")


def message(value: Any) -> dict[str, Any]:
    """A message to the evaluator, as plain data."""
    return {"type": "workerMessage", "message": {"_serializeVerId": "v9", "what": {"raw": value}}}


class Evaluator:
    """One evaluator process. Every read has a deadline, so that a silent evaluator fails the test at once."""

    def __init__(self, command: Sequence[str], timeout_s: float = 20.0, **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, **options
        )
        self._deadline_s = timeout_s
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self.seen: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def send(self, *values: Any) -> None:
        self.write(b"".join(json.dumps(message(value)).encode() + b"\n" for value in values))

    def line(self) -> str | None:
        """The next line, None at the end of the stream."""
        end = time.monotonic() + self._deadline_s
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, end - time.monotonic())):
                pytest.fail(f"the evaluator was silent for {self._deadline_s} s; seen: {self.seen[-3:]}")
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "strict")

    def next(self) -> dict[str, Any] | None:
        """The next message's contents {ringSource, value}; no acknowledgements; text lines as {"text"}."""
        while (line := self.line()) is not None:
            if not line.startswith("MSG:"):
                return {"text": line}
            decoded = json.loads(line[4:])
            if decoded["type"] == "result":
                if not decoded["success"]:
                    return {"failed": decoded}
                continue
            contents = decoded["message"]["what"]
            found = contents.get("raw", contents)
            self.seen.append(found)
            return found
        return None

    def until(self, *requests: str) -> dict[str, Any]:
        """The value of the next plain message with one of these requests."""
        while (found := self.next()) is not None:
            value = found.get("value", {})
            if value.get("request") in requests:
                return value
        pytest.fail(f"the evaluator ended before {requests}; seen: {self.seen[-3:]}")

    def assign(
        self, work_function: str, arguments: Sequence[str] = (), config: Any = None, **job: Any
    ) -> dict[str, Any]:
        """Assign a job in the pipelined dialect: the value of `assigned`, `reject` or `dependency`."""
        details = {
            "id": "job",
            "workFunction": work_function,
            "argumentUris": list(arguments),
            "dependencies": [],
            "requirePath": [],
            "modulePath": [],
            "public": {"name": "a job", "description": "", "link": ""},
            "worktime": {"name": "map-basic", "version": "1.0.0"},
        }
        self.send({"request": "assign", "job": details | job, "sandboxConfig": config or {}})
        return self.until("assigned", "reject", "dependency")

    def submit(self, *uris: str, first: int = 0) -> None:
        self.send(*({"request": "main", "id": first + n, "datumUri": uri} for n, uri in enumerate(uris)))

    def slice(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """How the next slice ends, and the messages before."""
        before: list[dict[str, Any]] = []
        while (found := self.next()) is not None:
            value = found.get("value", {})
            if value.get("request") in ENDS:
                return value, before
            before.append(value)
        pytest.fail(f"the evaluator ended in the middle of a slice; seen: {self.seen[-3:]}")

    def run(self, work_function: str, *uris: str, **job: Any) -> list[dict[str, Any]]:
        """Assign and run slices: how each of them ends."""
        assert self.assign(work_function, **job)["request"] == "assigned"
        self.submit(*uris)
        return [self.slice()[0] for _ in uris]

    def close(self) -> int:
        """End of input: the exit code."""
        self.process.stdin.close()
        try:
            return self.process.wait(timeout=10)
        finally:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()


def value_of(end: dict[str, Any]) -> Any:
    """The result of a completed slice: JSON decoded, KVIN as its prepared form."""
    assert end["request"] == "complete", end
    result = end["result"]
    decoded = json.loads(result["string"])
    return decoded if result["method"] == "json" else decoded["what"]


@pytest.fixture
def start(node: pathlib.Path) -> Iterator[Callable[..., Evaluator]]:
    """Starts evaluators and ends them after the test."""
    started: list[Evaluator] = []

    def starter(flags: Sequence[str] = FLAGS, **options: Any) -> Evaluator:
        started.append(Evaluator([str(node), *flags, str(HOST / "main.js")], **options))
        return started[-1]

    yield starter
    for evaluator in started:
        evaluator.kill()


@pytest.fixture
def evaluator(start: Callable[..., Evaluator]) -> Evaluator:
    return start()


@pytest.fixture(name="value_of")
def value_of_fixture() -> Callable[[dict[str, Any]], Any]:
    return value_of


@pytest.fixture
def flags() -> list[str]:
    return FLAGS
