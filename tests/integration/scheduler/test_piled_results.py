"""Many results in one request are settled like as many requests."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.errors import OrchestratorError
from orchestrator.jobs import piles
from orchestrator.protocol.config import fetch_config
from orchestrator.scheduler.app import SchedulerApp
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker


def reports(worker: FakeWorker, job: str, numbers: list[int], authorization: Any) -> list[dict[str, Any]]:
    return [
        {
            "slice": number,
            "job": job,
            "worker": worker.id,
            "paymentAddress": worker.payment.address,
            "metrics": {"CPUTime": 1, "GPUTime": 0, "CPUDensity": 1, "InDataSize": 10, "OutDataSize": 10},
            "authorizationMessage": authorization,
            "resultV2": kvin.marshal({"string": str(number), "method": "json", "MIMEType": "application/json"}),
        }
        for number in numbers
    ]


async def estimated(worker: FakeWorker, job: str) -> tuple[list[int], Any]:
    """Slices of a task that came after the estimation, and their lease."""
    while True:
        answer = await worker.take()
        numbers = [one["sliceNumber"] for one in answer["body"]["task"][job]]
        authorization = authorization_of(answer)
        if len(numbers) >= 20:
            return numbers, authorization
        for number in numbers:
            await worker.result(job, number, number, authorization)


async def test_a_pile_is_settled_like_single_results(app: SchedulerApp) -> None:
    told = (await fetch_config(app.url))["scheduler"]["services"]["resultSubmitter"]["tuning"]
    assert told == {"resultsInPile": piles.MOST}
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 60, "step": 1})
        numbers, lease = await estimated(worker, job)
        pile = reports(worker, job, numbers, lease)
        forged = {**lease, "auth": {**lease["auth"], "lease": {**lease["auth"]["lease"], "token": "forged"}}}
        pile[3]["authorizationMessage"] = forged
        pile[5]["slice"] = 0
        answer = await worker.results.request(piles.OPERATION, piles.fold(pile))
        said = piles.unfold_answers(answer, len(pile))
        refused = {place: one.code for place, one in enumerate(said) if isinstance(one, OrchestratorError)}
        assert refused == {3: "EPERM", 5: "EINVAL"}
        accepted = [one for place, one in enumerate(said) if place not in refused]
        assert {one["verdict"] for one in accepted} == {"accepted"}
        assert len(answer["answers"]) == 5, "equal answers are said once"
        again = await worker.results.request(piles.OPERATION, piles.fold(pile[:2]))
        assert {one["verdict"] for one in piles.unfold_answers(again, 2)} == {"duplicate"}
        await client.wait_for("result", len(accepted))
        expected = {number: number for place, number in enumerate(numbers) if place not in refused}
        assert expected.items() <= client.decoded().items()


@pytest.mark.parametrize("data", [{}, {"shared": {}, "each": []}, {"shared": {}, "each": [{}] * 501}])
async def test_what_is_no_pile_spoils_no_neighbour(app: SchedulerApp, data: Any) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        answer = await worker.take()
        with pytest.raises(OrchestratorError, match="results") as refused:
            await worker.results.request(piles.OPERATION, data)
        assert refused.value.code == "EINVAL"
        assert (await worker.result(job, 1, 1, authorization_of(answer)))["accepted"]
