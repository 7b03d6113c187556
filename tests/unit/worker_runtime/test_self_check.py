"""The report of a self-check: what it says, and that nobody can change it unseen."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import self_check
from orchestrator.worker.battery import CASES, Area, Case, Ground, NotApplicable, NotContained
from orchestrator.worker.docker_runtime import RuntimeUnavailable
from orchestrator.worker.self_check import Finding, Report, Verdict

KEY = PrivateKey(b"\x11" * 32)


async def _judged(outcome: str | Exception) -> Finding:
    async def run(_ground: Ground) -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return await self_check.judge(Case(Area.KERNEL, "n", "tries", "wall", run), Ground())


@pytest.mark.parametrize(
    ("outcome", "verdict", "good"),
    [
        ("EPERM", Verdict.CONTAINED, True),
        (NotContained("ALLOWED"), Verdict.NOT_CONTAINED, False),
        (NotApplicable("not here"), Verdict.NOT_APPLICABLE, True),
        (RuntimeUnavailable("gone", "no Engine", "start it"), Verdict.BROKEN, False),
        (KeyError("x"), Verdict.BROKEN, False),
        (TimeoutError(), Verdict.BROKEN, False),
    ],
)
async def test_verdicts(outcome: str | Exception, verdict: Verdict, good: bool) -> None:
    finding = await _judged(outcome)
    assert (finding.verdict, finding.good) == (verdict, good)


async def _report() -> Report:
    findings = [await _judged("EPERM | EROFS <b>"), await _judged(NotContained("reached\nit"))]
    return Report({"kernel": "6", "image_id": "sha256:1"}, time.time(), findings)


async def test_one_bad_finding_makes_the_report_bad() -> None:
    report = await _report()
    assert not report.good
    assert report.counts() == {"contained": 1, "not contained": 1, "not applicable": 0, "broken": 0}


async def test_a_signed_report_names_its_signer_also_after_a_way_through_a_file() -> None:
    signed = json.loads(json.dumps(self_check.sign((await _report()).to_json(), KEY)))
    assert self_check.signer(signed) == KEY.address


@given(place=st.sampled_from(["good", "started", "counts", "machine", "findings"]), text=st.text())
async def test_a_changed_report_has_no_signer(place: str, text: str) -> None:
    signed = self_check.sign((await _report()).to_json(), KEY)
    with pytest.raises(InvalidInput):
        self_check.signer({**signed, place: text})
    with pytest.raises(InvalidInput):
        self_check.signer({name: value for name, value in signed.items() if name != place})


@pytest.mark.parametrize("damage", [{"r": "zz"}, {"v": 5}, {"s": ""}, {"address": "0x0"}])
async def test_a_damaged_signature(damage: dict[str, object]) -> None:
    signed = self_check.sign((await _report()).to_json(), KEY)
    with pytest.raises(InvalidInput):
        self_check.signer({**signed, "signature": {**signed["signature"], **damage}})


async def test_markdown_has_a_row_per_finding_and_no_text_breaks_out_of_its_cell() -> None:
    text = self_check.markdown((await _report()).to_json())
    rows = [line for line in text.splitlines() if line.startswith("| n |")]
    assert len(rows) == 2
    assert "EPERM \\| EROFS &lt;b>" in rows[0]
    assert "reached it" in rows[1]
    assert "NOT ALL CONTAINED" in text


def test_cases_are_selected_by_area_and_by_name() -> None:
    assert {case.area for case in self_check.select(areas=["realm"])} == {Area.REALM}
    assert len(self_check.select()) == len(CASES)
    chosen = self_check.select(areas=["kernel"], names=["FORK"])
    assert [case.name for case in chosen] == ["fork bomb"]
    with pytest.raises(InvalidInput, match="no case is called like"):
        self_check.select(names=["no such case"])
