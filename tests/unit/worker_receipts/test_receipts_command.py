"""`dcp-orchestrator receipts`: what an operator and an auditor type."""

from __future__ import annotations

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.receipts import command
from orchestrator.errors import InvalidInput, NotFound
from tests.unit.worker_receipts.test_receipts import KEY, TERMS, lines


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "receipts"
    folder.mkdir()
    made = lines(6)
    (folder / "2027-01-15.0001.jsonl").write_bytes(b"\n".join(made[:4]) + b"\n")
    (folder / "2027-01-16.0001.jsonl").write_bytes(b"\n".join(made[4:]) + b"\n" + made[0][:100])
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_verify(state: pathlib.Path) -> None:
    result = run("verify", "--state", str(state))
    assert result.exit_code == 0, result.output
    assert f"signed by {KEY.address}: 6" in result.output
    assert "6 valid, 0 invalid, 0 twice" in result.output
    assert "torn: 2027-01-16.0001.jsonl:3" in result.output


def test_verify_for_programs(state: pathlib.Path) -> None:
    path = state / "receipts" / "2027-01-15.0001.jsonl"
    path.write_text(path.read_text().replace('"cpuNs":12', '"cpuNs":92', 1))
    result = run("verify", str(path), "--output", "json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["good"], found["valid"], found["invalid"]) == (False, 3, 1)
    assert found["findings"][0]["place"] == "2027-01-15.0001.jsonl:1"


def test_the_same_file_twice_is_told(state: pathlib.Path) -> None:
    path = str(state / "receipts" / "2027-01-15.0001.jsonl")
    assert run("verify", path, path).exit_code == 1


def test_who_must_have_signed(state: pathlib.Path) -> None:
    assert run("verify", "--state", str(state), "--signer", KEY.address.lower()).exit_code == 0
    assert run("verify", "--state", str(state), "--signer", TERMS.payment_address).exit_code == 1
    assert isinstance(run("verify", "--state", str(state), "--signer", "0x12").exception, InvalidInput)


def test_list(state: pathlib.Path) -> None:
    shown = run("list", "--state", str(state), "--limit", "2").output.splitlines()
    assert [line.split("slice ")[1].split()[0] for line in shown] == ["4", "5"]
    as_json = run("list", "--state", str(state), "--job", "j" * 22, "--output", "json").output.splitlines()
    assert [json.loads(line)["slice"] for line in as_json] == list(range(6))
    assert run("list", "--state", str(state), "--job", "other").output == ""


def test_show(state: pathlib.Path) -> None:
    [shown] = json.loads(run("show", "j" * 22, "3", "--state", str(state)).output)
    assert (shown["verified"], shown["isolation"]) == ({"signer": KEY.address}, "runc-hardened")
    missing = run("show", "j" * 22, "99", "--state", str(state)).exception
    assert isinstance(missing, NotFound)
    assert "99" in missing.message


@pytest.mark.parametrize("arguments", [["/nowhere"], ["--state", "/nowhere"]])
def test_nothing_to_read(arguments: list[str]) -> None:
    assert isinstance(run("verify", *arguments).exception, NotFound)


def test_an_empty_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "receipts").mkdir()
    assert isinstance(run("verify", "--state", str(tmp_path)).exception, NotFound)
    assert isinstance(run("verify", "x", "--state", str(tmp_path)).exception, InvalidInput)
