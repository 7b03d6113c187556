"""The command-line tools of the official packages, unmodified, against a Scheduler's Bank."""

from __future__ import annotations

import pytest

from tests.e2e.tools import BANK_UTILITY, DCP_BANK, Tools

pytestmark = pytest.mark.npm


async def balance_of(tools: Tools) -> str:
    account = await tools.json(BANK_UTILITY, "balance")
    assert account["address"] == tools.address("default")
    assert account["escrow"] == {"num": 0, "total": "0"}
    balance: str = account["balance"]
    return balance


async def test_bank_utility_and_dcp_bank(tools: Tools) -> None:
    assert await balance_of(tools) == "1000"
    other = tools.address("other")
    status, said = await tools.run(BANK_UTILITY, "transfer", "1.25", other)
    assert (status, "Transfer successful!" in said) == (0, True), said
    assert await balance_of(tools) == "998.75"
    _, said = await tools.run(BANK_UTILITY, "transfer", "5000", other)
    assert "Not enough credits in source account" in said
    _, said = await tools.run(BANK_UTILITY, "transfer", "1", other, f"--source={other}", "--signingSource=default")
    assert f"may not move the money of fromAccount {other}" in said
    assert await balance_of(tools) == "998.75"
    # On the same Scheduler: starting one takes longer than all of this.
    status, said = await tools.run(DCP_BANK, "transfer", "2.5", "--to=other")
    assert (status, said.endswith("success\n")) == (0, True), said
    assert await balance_of(tools) == "996.25"
    status, said = await tools.run(DCP_BANK, "transfer", "25000", "--to=other")
    assert (status, "has 996.25 DCC but 25000 DCC are needed (ENOFUNDS)" in said) == (4, True), said
    status, said = await tools.run(DCP_BANK, "transfer", "0.5", "--from=other", "--to=default")
    assert status == 0, said
    assert await balance_of(tools) == "996.75"
