"""Every decoder of what strangers send, fed with what no honest peer sends: `python -m tests.fuzz --minutes 10`.

A decoder may refuse with its own error and nothing else: any other exception is a finding, and hypothesis shrinks it to
the smallest input that causes it. Inputs are random JSON whose names are those that the decoders look for, true
messages with a part exchanged, and texts with the marks of the formats.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import pathlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.bank.amounts import parse_amount
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs import data_uris, piles, ranges, values
from orchestrator.kvin.decoder import Limits
from orchestrator.protocol import js_json, messages, packets, signing
from orchestrator.protocol.authorization import authorized_resources
from orchestrator.protocol.framing import FramingLimits, Receiver, Sender
from orchestrator.protocol.places import TrustedProxies, place_of
from orchestrator.protocol.server import Request, ServerConnection
from orchestrator.protocol.session import Session
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import Breach, Received, Role, Tick, TransportUp
from orchestrator.scheduler import groups, result_reports
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.dialects import v4
from orchestrator.scheduler.submission import parse_submission
from orchestrator.scheduler.task_request import parse_task_request
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import addresses
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker.evaluator_messages import Violation
from orchestrator.worker.evaluator_parsing import parse as parse_line
from orchestrator.worker.limits import OutputLimits
from orchestrator.worker.line_protocol import LineSplitter
from tests.postgres import PostgresServer

Decoder = Callable[[Any], object]

_ADDRESS = "0x" + "ab" * 20
_NAMES = [
    "job",
    "worker",
    "slice",
    "slices",
    "sliceNumber",
    "sliceNumbers",
    "status",
    "reason",
    "result",
    "resultV2",
    "string",
    "method",
    "MIMEType",
    "metrics",
    "CPUTime",
    "GPUTime",
    "authorizationMessage",
    "paymentAccount",
    "paymentAddress",
    "workFunctionURI",
    "marshaledArguments",
    "requirements",
    "worktime",
    "name",
    "version",
    "start",
    "end",
    "step",
    "ro",
    "sparse",
    "n",
    "type",
    "params",
    "fn",
    "ctr",
    "props",
    "ptr",
    "arr",
    "raw",
    "json",
    "dataSet",
    "dataRange",
    "dataPattern",
    "dataValues",
    "RangeLength",
    "sliceCount",
    "pattern",
    "targetLoad",
    "cpu",
    "gpu",
    "longSlices",
    "coreStats",
    "lCores",
    "capabilities",
    "jobIds",
    "workerComputeGroups",
    "joinKey",
    "joinHash",
    "joinHashHash",
    "joinSecret",
    "worktimes",
    "fetchState",
    "owner",
    "signature",
    "r",
    "s",
    "v",
    "body",
    "data",
    "payload",
    "operation",
    "id",
    "ackToken",
    "token",
    "nonce",
    "dcpsid",
    "time",
    "validity",
    "stamp",
    "auth",
    "allow",
    "resource",
    "guardian",
    "accessor",
    "msgId",
    "seq",
    "total",
    "rxMaxFragmentSize",
    "request",
    "slice",
    "value",
    "output",
    "error",
    "message",
    "stack",
    "_serializeVerId",
    "what",
    "undefined",
    "number",
]
JOBS = [f"job{number:019d}" for number in range(30)]
"""jobs that the Scheduler has whose services are fuzzed"""

_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-3, 300) | st.floats() | st.text(max_size=12)
    | st.sampled_from(
        [*_NAMES, *JOBS[:5], _ADDRESS, "data:,1", "data:application/x-kvin,1", "v9", "v8", "connect", "ack", "batch",
         "response", "9"]
    )
)  # fmt: skip
JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=3), inner,
                                                                max_size=6),
    max_leaves=25,
)  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(_NAMES), JSON, max_size=12)


def _text_of(value: Any) -> str:
    return json.dumps(value)


_MARKS = st.text(alphabet='{}[]":,0123456789eE+-.\\unulltruefalse \x00\ud800é', max_size=60)
JSON_TEXT = (
    JSON.map(_text_of)
    | _MARKS
    | st.tuples(JSON.map(_text_of), st.integers(0, 40), _MARKS).map(lambda parts: parts[0][: parts[1]] + parts[2])
)
URIS = st.one_of(
    st.text(max_size=40),
    st.builds(
        "data:{}{}{},{}".format,
        st.sampled_from(["", "text/plain", "application/json", "application/x-kvin", "x/y"]) | st.text(max_size=8),
        st.sampled_from(["", ";charset=utf-8", ";charset=", ";charset=latin1", ";a=b"]) | st.text(max_size=6),
        st.sampled_from(["", ";base64"]),
        JSON_TEXT | st.text(alphabet="%0123456789abcdefABCDEF=+/", max_size=30),
    ),
)


def _true_with_a_part_exchanged(true: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(true)), JSON, max_size=3).map(lambda parts: {**true, **parts})


_SUBMISSION = {
    "job": "a" * 22, "paymentAccount": _ADDRESS, "workFunctionURI": "data:,(x)=>x", "mvMultSlicePayment": 1,
    "absoluteSlicePayment": 0, "requirements": 64, "worktime": {"name": "map-basic", "version": "^1.0.0"},
    "marshaledArguments": kvin.marshal([]), "dataRange": {"start": 1, "end": 5}, "public": {"name": "x"},
    "useStrict": True, "estimationSlices": 3, "greedyEstimation": False,
}  # fmt: skip
_TASK_REQUEST = {
    "targetLoad": {"cpu": 1, "gpu": 0, "longSlices": 1}, "jobIds": [], "capabilities": 80, "fetchState": 1,
    "coreStats": {"worker": "w" * 22, "lCores": 2, "pCores": 2, "sandbox": 2}, "paymentAddress": _ADDRESS,
    "workerComputeGroups": [{"joinKey": "public", "joinHashHash": "eh1-0"}],
    "worktimes": [{"name": "map-basic", "version": "1.0.0"}],
}  # fmt: skip
_RESULT = {
    "slice": 1, "job": "a" * 22, "worker": "w" * 22, "paymentAddress": _ADDRESS,
    "metrics": {"CPUTime": 1, "GPUTime": 0, "CPUDensity": 1, "InDataSize": 10, "OutDataSize": 10},
    "authorizationMessage": {}, "resultV2": kvin.marshal({"string": "1", "method": "kvin"}),
}  # fmt: skip
_MESSAGE = {
    "type": "request", "id": "1-1-abcdefgh", "time": 1.0, "ackToken": "AT1-abcdefgh", "nonce": "N1-abcdefgh",
    "payload": {"operation": "connect", "data": {"version": messages.WIRE_VERSION, "sid": "abcdefghijklmnop"}},
}  # fmt: skip

_KEY = PrivateKey.generate()
_PEER = PrivateKey.generate()
_SMALL = Limits()


def _packet(packet: str | bytes) -> None:
    kind, carried = packets.engine_packet(packet)
    if kind is packets.Outer.MESSAGE:
        packets.socket_packet(carried)


def _framing(fragments: list[str]) -> None:
    limits = FramingLimits(message=2_000, partial=3, fragments=20)
    receiver, sender = Receiver(limits), Sender()
    for fragment in fragments:
        receiver.receive(fragment, sender)
        assert 0 <= receiver.characters <= 4 * limits.message * limits.partial
    for frame in sender.frames("x" * 50_000):
        assert frame


def _session(bodies: list[dict[str, Any]]) -> None:
    """A target session may end for anything; it must not raise, nor break its invariants."""
    made = iter(range(1_000_000))
    session = Session(Role.TARGET, _KEY, make_token=lambda: f"t{next(made):08d}", stamps=Stamps(), now=0.0)
    session.handle(TransportUp(), 0.0)
    for body in bodies:
        session.handle(Received(signing.Envelope(_PEER.address, body)), 1.0)
        session.validate()
    session.handle(Tick(), 2.0)
    session.handle(Breach(InvalidInput("the end")), 3.0)


def _sealed(body: Any) -> str:
    return signing.seal(_PEER, json.dumps(body))


def _lines(chunks: list[bytes]) -> None:
    splitter = LineSplitter(200)
    for chunk in chunks:
        for line in splitter.feed(chunk):
            parse_line(line, OutputLimits(), kvin.unmarshal)


def _input_set(form: Any) -> None:
    inputs = ranges.parse_input_set(form)
    if len(inputs if hasattr(inputs, "__len__") else []) or inputs.length:
        inputs.value(0)
        inputs.uri(0)


FRAGMENTS = st.builds(
    lambda header, kind, text: f"E{len(_text_of(header)):04x}{kind}{_text_of(header)}{text}",
    st.fixed_dictionaries({"msgId": st.integers(0, 3), "seq": st.integers(-1, 4), "total": st.integers(-1, 5)}) | JSON,
    st.sampled_from(["C", "P", "X"]),
    st.text(max_size=30),
)

DECODERS: dict[str, tuple[st.SearchStrategy[Any], Decoder]] = {
    "kvin.parse": (JSON_TEXT, kvin.parse),
    "kvin.unmarshal": (JSON | OBJECTS, kvin.unmarshal),
    "js_json.loads": (JSON_TEXT, js_json.loads),
    "packet": (
        st.binary(max_size=20)
        | st.text(max_size=20)
        | st.builds("4{}{}".format, st.sampled_from("0123456"), JSON_TEXT),
        _packet,
    ),
    "framing": (st.lists(FRAGMENTS | JSON_TEXT | st.text(max_size=20), max_size=8), _framing),
    "envelope": (JSON_TEXT | OBJECTS.map(_text_of), signing.open_envelope),
    "envelope, well signed": (JSON.map(_sealed), signing.open_envelope),
    "session": (st.lists(_true_with_a_part_exchanged(_MESSAGE) | OBJECTS, max_size=4), _session),
    "authorization": (
        st.tuples(OBJECTS, JSON),
        lambda pair: authorized_resources(pair[0], pair[1], guardian=_ADDRESS, accessor=_PEER.address),
    ),
    "submit": (_true_with_a_part_exchanged(_SUBMISSION) | OBJECTS, lambda data: parse_submission(data, 3)),
    "requestTask": (_true_with_a_part_exchanged(_TASK_REQUEST) | OBJECTS, parse_task_request),
    "result": (_true_with_a_part_exchanged(_RESULT) | JSON, result_reports.parse_result),
    "status": (JSON | OBJECTS, result_reports.parse_status),
    "createGroup": (OBJECTS, lambda data: groups.new_group(data, owner=_ADDRESS, new_id="x")),
    "amounts": (_SCALARS | JSON, parse_amount),
    "data URIs": (URIS, lambda uri: data_uris.decode_data_uri(uri, 10_000)),
    "values of URIs": (URIS, values.value_of_uri),
    "piles": (JSON | OBJECTS, lambda form: values.uris_of_pile(form, max_slices=1_000)),
    "arguments": (JSON | OBJECTS, values.uris_of_arguments),
    "result URIs": (JSON | OBJECTS, values.result_uri),
    "ranges": (JSON | OBJECTS, _input_set),
    "slice selections": (JSON | OBJECTS, ranges.parse_slice_selection),
    "line protocol": (
        st.lists(
            st.binary(max_size=80) | JSON_TEXT.map(lambda text: text.encode(errors="replace") + b"\n"), max_size=6
        ),
        _lines,
    ),
    "v4": (
        st.tuples(st.sampled_from(["requestTask", "result", "workEmit", "status", "subscribe"]), JSON | OBJECTS),
        lambda pair: v4.read(*pair),
    ),
    "v4, answers": (
        st.tuples(JSON | OBJECTS, URIS).map(lambda pair: {"jobAddresses": pair[0], "worktimes": pair[0]}),
        lambda asked: v4.write("requestTask", asked, {"body": {"newJobs": {}, "task": {}}, "auth": {"authSlices": {}}}),
    ),
    "v8 URIs": (URIS, v4.v8_uri),
    "X-Forwarded-For": (
        st.text(max_size=40),
        lambda text: place_of(TrustedProxies(("0.0.0.0/0",)).client("1.1.1.1", text)),
    ),
}


# --- services, as a whole: what comes out of an envelope goes into a real Scheduler

_OPERATIONS: dict[str, list[str]] = {
    "jobSubmit": ["submit", "addSliceData", "cancelJob", "cancelAllJobs", "addFunds", "resumeJob"],
    "taskDistributor": ["requestTask", "requestTask@3"],
    "resultSubmitter": ["result", "results", "status", "closeJob", "fetchResult"],
    "eventRouter": ["subscribeMany", "subscribe", "unsubscribe", "workEmit"],
    "computeGroups": [
        "addJobToGroups", "createGroup", "changeGroup", "deleteGroup", "listJobs", "removeJob", "removeAllJobs",
        "listGroups",
    ],
    "pheme": [
        "listJobs", "countJobs", "countSlices", "fetchJobReport", "fetchSliceReport", "explainJob", "cancelAllJobs",
    ],
    "bankTeller": [
        "transfer", "transfer@1", "transferCredits", "reserveTransfer", "postTransfer", "voidTransfer", "issueCredits",
        "payOutFees", "withdrawToChain", "cancelWithdrawal", "viewWithdrawals",
        "viewPending", "viewStatement", "viewAccount", "viewAccounts",
    ],
}  # fmt: skip
_WORDS = [
    "toAddress",
    "fromAccount", "toAccount", "amount", "transferAll", "transferId", "expiresIn", "signingSource", "address",
    "addresses", "limit", "before", "statuses", "startDeployTime", "endDeployTime", "jobOwner", "from", "slice", "job",
    "reliableEvents", "optionalEvents", "schedmsgEvents", "options", "filter", "$or", "target", "label", "token",
    "eventName", "payload", "cgArray", "id", "joinKey", "joinSecret", "rejectedJobs", "unresolvedJobs",
    "soteriaJobs", "overdueSlices", "jobQuanta", "previouslyWorkedJobs", "jobAddresses", "worktimes", "versions",
    "paymentAccount", "slices", "sliceNumbers", "status", "data", "dataValues", "groups", "fees", "limits",
]  # fmt: skip
_DATA = st.dictionaries(st.sampled_from([*_WORDS, *_NAMES]), _SCALARS | JSON, max_size=6)
_ABOUT_A_JOB = st.tuples(_DATA, st.sampled_from(JOBS)).map(lambda pair: {**pair[0], "job": pair[1]})
_TRANSFER = {
    "fromAccount": _ADDRESS,
    "toAccount": _PEER.address,
    "amount": "1",
    "transferId": "t1",
    "limit": 3,
    "toAddress": _PEER.address,
}
_SUBSCRIPTION = {
    "reliableEvents": ["stop"], "optionalEvents": ["result"], "label": "result", "token": "x",
    "options": {"filter": {"job": JOBS[0], "eventName": "result"}},
}  # fmt: skip
_REPORT = {**_RESULT, "eventName": "console", "payload": {"x": 1}, "slices": [], "cgArray": [{"joinKey": "public"}]}
_MESSAGES = (
    _DATA
    | _ABOUT_A_JOB
    | JSON
    | st.just(messages.ABSENT)
    | _DATA.map(lambda data: {"payload": data, "data": data})
    | st.one_of(
        *map(
            _true_with_a_part_exchanged,
            (_TRANSFER, _SUBSCRIPTION, _REPORT, _SUBMISSION, _TASK_REQUEST, _RESULT, piles.fold([_RESULT, _RESULT])),
        )
    )
)
_OWNER = addresses.checksum(_ADDRESS)
_ALLOWED = st.sets(st.sampled_from([_OWNER, _PEER.address]))


class _Connection(ServerConnection):
    """A client that answers what it is asked."""

    dcpsid = "fuzz" * 8

    def __repr__(self) -> str:
        return f"<client of dialect {self.dialect}>"

    peer = _PEER.address
    is_connected = True

    async def request(self, operation: str, data: Any = None) -> Any:
        return "success"

    def close(self) -> None:
        pass


class Services:
    """All services of a Scheduler that runs as long as the block, on a database of its own."""

    current: Services | None = None

    def __init__(self, folder: pathlib.Path, database_url: str | None = None) -> None:
        self._folder = folder
        self._database_url = database_url
        self._runner = asyncio.Runner()
        self._connections = [_Connection("fuzz", dialect) for dialect in (4, 5)]
        self._app: SchedulerApp

    def __enter__(self) -> Services:
        # What is refused with an error may be logged ten thousand times.
        logging.getLogger("orchestrator").setLevel(logging.CRITICAL)
        self._runner.run(self._open())
        Services.current = self
        return self

    def __exit__(self, *_: object) -> None:
        Services.current = None
        self._runner.run(self._app.__aexit__(None, None, None))
        self._runner.close()
        logging.getLogger("orchestrator").setLevel(logging.NOTSET)

    async def _open(self) -> None:
        settings = SchedulerSettings(
            port=0, state_dir=self._folder, initial_credit=10**21, long_poll_s=0.0, estimation_slices=0,
            database_url=self._database_url, max_groups_per_owner=20, market_half_life_s=60.0,
        )  # fmt: skip
        self._app = await SchedulerApp(settings).__aenter__()
        for job in JOBS:
            await self._ask("jobSubmit", "submit", {**_SUBMISSION, "job": job}, frozenset([_OWNER]), 5)
            await self._ask(
                "computeGroups", "addJobToGroups", {"job": job, "cgArray": [{"joinKey": "public"}]}, frozenset(), 5
            )

    def ask(self, service: str, message: tuple[str, Any, set[str], int]) -> Any:
        operation, data, authorized, dialect = message
        return self._runner.run(self._ask(service, operation, data, frozenset(authorized), dialect))

    async def _ask(self, service: str, operation: str, data: Any, authorized: frozenset[str], dialect: int) -> Any:
        handler = self._app.server._services[service]
        request = Request(operation, data, _PEER.address, authorized, self._connections[dialect == 5])
        async with asyncio.timeout(20):
            batch = getattr(handler, "handle_batch", None)
            outcome = await handler.handle(request) if batch is None else (await batch([request]))[0]
        failed = self._app._tasks._over
        if failed.done():
            failed.result()  # a part of the Scheduler, and with it the Scheduler, has ended
        if isinstance(outcome, OrchestratorError):
            raise outcome
        if outcome is not messages.ABSENT:
            js_json.dumps(outcome)
        return outcome


@contextlib.contextmanager
def services(database_url: str | None = None) -> Iterator[Services]:
    """On a SQLite file of their own, when no database is named."""
    with tempfile.TemporaryDirectory() as folder, Services(pathlib.Path(folder), database_url) as running:
        yield running


def _ask_service(name: str) -> tuple[st.SearchStrategy[Any], Decoder]:
    def decode(message: Any) -> object:
        assert Services.current is not None, "inside `with services()`"
        return Services.current.ask(name, message)

    operations = st.sampled_from(_OPERATIONS[name])
    return st.tuples(operations, _MESSAGES, _ALLOWED, st.sampled_from([4, 5])), decode


SERVICES = [f"service {name}" for name in _OPERATIONS]
DECODERS |= {f"service {name}": _ask_service(name) for name in _OPERATIONS}


def fuzz(name: str, examples: int, *, seed: int | None = None) -> None:
    """Feed one decoder. Raises what it should not have raised, with the smallest input noted. Services need to run."""
    inputs, decode = DECODERS[name]

    def attempt(value: Any) -> None:
        with contextlib.suppress(OrchestratorError, Violation):
            decode(value)

    test = given(inputs)(attempt)
    options = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    options(hypothesis.seed(seed)(test) if seed is not None else test)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--only", choices=sorted(DECODERS), action="append", help="this decoder instead of all in turn; may be repeated"
    )
    parser.add_argument(
        "--postgres", action="store_true", help="the services on a PostgreSQL of their own, and nothing else"
    )
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    names = options.only or (SERVICES if options.postgres else list(DECODERS))
    done = dict.fromkeys(names, 0)
    findings: dict[str, str] = {}
    seed = int(time.time())
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(PostgresServer()).create() if options.postgres else None
        stack.enter_context(services(url))
        while time.monotonic() < until and len(findings) < len(names):
            seed += 1
            for name in names:
                if name in findings or time.monotonic() >= until:
                    continue
                try:
                    fuzz(name, 100, seed=seed)
                    done[name] += 100
                except Exception:  # what a finding is, is not known beforehand
                    findings[name] = traceback.format_exc()
                    print(f"FINDING in {name} (seed {seed}):\n{findings[name]}", file=sys.stderr, flush=True)
    if options.output == "json":
        print(json.dumps({"inputs": done, "findings": findings}))
    else:
        for name, count in done.items():
            print(f"{name:24} {count:>9} inputs  {'FINDING' if name in findings else 'ok'}")
    if findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
