"""What `job deploy` understands, and what it refuses: before anything is sent."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import click
import pytest
from click.testing import CliRunner

from orchestrator import kvin
from orchestrator.cli import job_deploy, job_inputs
from orchestrator.cli.job_view import View, price_lines
from orchestrator.cli.main import cli
from orchestrator.compute.job import PUBLIC, Group, Job, JobEvent, Range, Redundancy
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import Capability, Isolation, join_hash, join_hash_hash

CODE = "(x) => x"


def job(*arguments: str, stdin: bytes = b"") -> Job:
    """The job that these words ask for."""
    made: list[Job] = []

    def keep(**wish: Any) -> Job:
        made.append(real(**wish))
        raise click.Abort

    real = job_deploy._job
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_deploy, "_job", keep)
        result = CliRunner().invoke(cli, ["job", "deploy", *arguments], input=stdin)
    if not made:
        assert result.exception is not None
        raise AssertionError(result.output) if isinstance(result.exception, SystemExit) else result.exception
    return made[0]


@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (["--range", "1:10"], Range(1, 10, 1)),
        (["--range", "-5:5:2"], Range(-5, 5, 2)),
        (["--range", "0:1:0.25"], Range(0, 1, 0.25)),
        (["--values", "1", "-2", "2.5", "abc", '{"a":[1]}', "null"], [1, -2, 2.5, "abc", {"a": [1]}, None]),
        (["--inputs", "-"], [1, "two", [3]]),
    ],
)
def test_input_sets(words: list[str], inputs: Any) -> None:
    made = job("--code", CODE, *words, stdin=b'1\n\n"two"\n[3]\n')
    assert made.inputs == inputs
    assert made.work_function == CODE


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", "[1, [2]]", [1, [2]]),
        ("a.jsonl", "[1, 2]\n[3]", [[1, 2], [3]]),
        ("a.txt", "[1, 2]", [1, 2]),
        ("-", "[1]\n[2]", [[1], [2]]),
        ("-", '{"a": 1}', [{"a": 1}]),
    ],
)
def test_files_of_inputs(name: str, text: str, found: list[Any]) -> None:
    assert job_inputs.listed(text, name) == found


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "the work function is missing: name its JavaScript file, - for standard input, or --code"),
        (["no.js", "--range", "1:2"], "the work function: no.js cannot be read: No such file or directory"),
        (["--code", " ; ", "--range", "1:2"], "the work function --code is empty"),
        (["--code", CODE], r"there is no input set; give one of --range START:END\[:STEP\], --inputs"),
        (["--code", CODE, "--range", "1:2", "--values", "1"], "--range and --values are given; give one of"),
        (["--code", CODE, "--range", "1:b"], "--range is '1:b'; write START:END or START:END:STEP with numbers"),
        (["--code", CODE, "--range", "1:inf"], "--range is '1:inf'"),
        (["--code", CODE, "--range", "1:2:0"], "--range 1:2:0: the step is 0"),
        (["--code", CODE, "--range", "1:2", "x"], "'x' is one word too many"),
        (["--code", CODE, "--values"], "--values: there is no input; a job has one slice at least"),
        (["--code", CODE, "--inputs", "-"], "line 2 of - is not JSON: 'oops'; give one value a line"),
        (["-", "--inputs", "-"], "--inputs is -, and the work function is read from standard input: name a file"),
        (["--code", CODE, "--range", "1:2", "--arguments", "1"], r"--arguments is '1'; write a JSON array of them"),
        (["--code", CODE, "--range", "1:2", "--arguments", "[NaN]"], r"--arguments '\[NaN\]' is not JSON"),
        (["--code", CODE, "--range", "1:2", "--payment", "much"], "--payment 'much' is not a decimal number.*1.5x"),
        (["--code", CODE, "--range", "1:2", "--payment", "-1x"], "--payment is '-1x'; a multiple of the market value"),
        (["--code", CODE, "--range", "1:2", "--group", "lab,"], "--group 'lab' lacks a secret; write KEY, KEY,SECRET"),
        (["--code", CODE, "--range", "1:2", "--group", "id:x"], "--group 'x' is not a job id"),
        (["--code", CODE, "--range", "1:2", "--agree", "3", "--of", "2"], "--of is 2; at least the 3 of --agree"),
        (["--code", CODE, "--range", "1:2"], "nobody can be asked whether the job is to be paid.*give --yes"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], match: str) -> None:
    result = CliRunner().invoke(cli, ["job", "deploy", *words], input=b"1\noops\n")
    assert isinstance(result.exception, InvalidInput), result.output
    with pytest.raises(InvalidInput, match=match):
        raise result.exception


def test_a_flag_that_there_is_not_is_no_value() -> None:
    result = CliRunner().invoke(cli, ["job", "deploy", "--code", CODE, "--values", "1", "--paymnt", "2"])
    assert result.exit_code == 2 and "No such option '--paymnt'" in result.output
    result = CliRunner().invoke(
        cli, ["job", "deploy", "--code", CODE, "--range", "1:2", "--yes", "--detach", "--results", "x"]
    )
    assert result.exit_code == 2 and "--detach waits for no --results" in result.output


def test_the_rest_of_a_job(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "work.js"
    file.write_text("\n(x, k) => x * k;\n")
    made = job(
        str(file), "--range", "1:2", "--arguments", '[7, "a"]', "--payment", "0.25", "--public-name", "Primes",
        "--group", "lab,secret", "--group", "public", "--requires", "webgpu", "--requires", "offscreen-canvas",
        "--isolation", "gvisor", "--agree", "3", "--trusting",
    )  # fmt: skip
    assert made.work_function == "(x, k) => x * k"
    assert (made.arguments, made.slice_payment, made.market_multiple) == ((7, "a"), "0.25", None)
    assert (made.name, made.isolation) == ("Primes", Isolation.GVISOR)
    assert made.groups == (Group("lab", join_hash("lab", "secret")), PUBLIC)
    assert made.requires == Capability.WEBGPU | Capability.OFFSCREEN_CANVAS
    assert made.redundancy == Redundancy(3, None, True)
    plain = job("--code", CODE, "--range", "1:2", "--payment", "1.5x")
    assert (plain.slice_payment, plain.market_multiple, plain.redundancy) == (None, 1.5, None)
    assert plain.groups == (PUBLIC,)
    assert job("--code", CODE, "--range", "1:2", "--redundancy").redundancy == Redundancy()
    monkeypatch.setenv("DCP_GROUP_SECRET", "hush")
    assert job_inputs.group("lab") == Group("lab", join_hash("lab", "hush"))


def test_a_group_is_named_with_a_proof_for_one_connection() -> None:
    hashed = join_hash("lab", "secret")
    assert Group("lab", hashed).descriptor("sid") == {"joinKey": "lab", "joinHashHash": join_hash_hash("sid", hashed)}
    assert Group("lab").descriptor("sid") == {"joinKey": "lab"}
    assert Group(id="i" * 22).descriptor("") == {"opaqueId": "i" * 22}
    assert PUBLIC.descriptor("")["joinKey"] == "public"


QUOTE: dict[str, Any] = {
    "slicePrice": "0.5", "slices": 1000, "total": {"least": "500", "expected": "500", "most": "500"},
    "held": {"first": "5", "most": "500"}, "paymentAccount": "0xA", "available": "400",
}  # fmt: skip
TOLD = {"agree": 2, "of": 4, "trusting": False, "opinions": {"least": 2, "expected": 2.03, "most": 4}}


def test_the_price_says_what_the_confidence_costs() -> None:
    plain = "\n".join(price_lines(QUOTE))
    assert "cost         500 DCC\n" in plain
    assert "held         5 DCC at first, 500 DCC once all inputs are there; what is not spent goes back" in plain
    assert "0xA has 400 DCC: not enough" in plain
    sure = QUOTE | {
        "redundancy": TOLD, "total": {"least": "1000", "expected": "1015", "most": "2000"},
        "held": {"first": "2000", "most": "2000"}, "available": "9000",
    }  # fmt: skip
    text = "\n".join(price_lines(sure))
    assert "2 workers must agree, 4 are asked at most" in text
    assert "costs about 2.03 times the price, 4 times at most: about 515 DCC more" in text
    assert "cost         about 1015 DCC, 1000 at least, 2000 at most" in text
    assert "held         2000 DCC; what" in text
    assert "not enough" not in text


def test_the_price_says_what_groups_are_paid_and_by_whom() -> None:
    lab = {"group": "lab", "fee": "0.75", "commissionRate": "0.1", "commission": "0.05", "workerPay": "0.45"}
    public = {"group": "public", "fee": "0", "commissionRate": "0", "commission": "0", "workerPay": "0.5"}
    quote = QUOTE | {"available": "500.5", "fees": "0.75", "groups": [public, lab]}
    lines = price_lines(quote)
    assert lines[2:5] == [
        "cost         500 DCC",
        "             and 0.75 DCC at once to group lab for taking it, not given back",
        "workers      get 0.45 DCC of each price, group lab the other 0.05 DCC",
    ]
    assert lines[-1].endswith("0xA has 500.5 DCC: not enough")
    assert "not enough" not in price_lines(quote | {"available": "500.75"})[-1]


def event(label: str, value: Any = None, **data: Any) -> JobEvent:
    return JobEvent(label, {"eventName": label, **data}, value)


EVENTS = [
    event("status", runStatus="running", total=4, computed=0, distributed=2),
    event("console", sliceNumber=1, level="warn", message=kvin.marshal(["hot\x1b[31m", 7, {"a": None}])),
    event("result", {"x": [1, None]}, sliceNumber=2),
    event("result", kvin.UNDEFINED, sliceNumber=1),
    event("error", sliceNumber=3, name="RangeError", message="too far"),
    event("error", sliceNumber=3, name="Error", message="given up", code="ETOOMANYATTEMPTS"),
    event("nofunds", job="j", fundsRequired="5", paymentAccount="0xA"),
    event("status", runStatus="running", total=4, computed=2, distributed=2),
]


def test_results_are_lines_and_the_rest_is_told_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(results=None, is_json=False)
    for one in EVENTS:
        view.hear(one)
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"slice": 2, "result": {"x": [1, None]}}, {"slice": 1, "kvin": kvin.stringify(kvin.UNDEFINED)},
    ]  # fmt: skip
    assert err.splitlines() == [
        "running: 0 of 4 slices computed",
        'slice 1: warn: hot·[31m 7 {"a": null}',
        "slice 3: RangeError: too far",
        "slice 3: Error: given up",
        "the job waits for funds: 5 DCC more are needed; bring them to 0xA, or: dcp-orchestrator job fund j",
        "running: 2 of 4 slices computed",
    ]
    assert view.progress.given_up == 1


def test_all_of_it_is_json_lines_and_results_may_go_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    view = View(results=file, is_json=True)
    for one in EVENTS:
        view.hear(one)
    out, err = capsys.readouterr()
    assert err == ""
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["event"] for one in told] == ["progress", "console", "error", "error", "nofunds", "progress"]
    assert told[-1] == {"event": "progress", "status": "running", "total": 4, "computed": 2, "givenUp": 1}
    assert len(file.getvalue().splitlines()) == 2
