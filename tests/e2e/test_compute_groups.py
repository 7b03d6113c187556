"""Compute groups and job reports as their users meet them: the unmodified dcp-util and dcp-client, our command, and a
worker in containers."""

from __future__ import annotations

import asyncio
import json
import pathlib
from typing import Any

import pytest

from orchestrator.jobs.words import join_hash
from orchestrator.protocol.client import DcpClient
from orchestrator.wallet import files
from tests.e2e import harness
from tests.e2e.tools import CG_UTILITY, JOB_UTILITY, Tools

pytestmark = pytest.mark.npm

DEPLOY = """
    async function deploy(groups)
    {
      const job = compute.for(1, 20, (x) => { progress(); return x; });
      job.computeGroups = groups;
      const ended = job.exec(0.5);
      const accepted = new Promise((resolve) => job.on('accepted', () => resolve(job.id)));
      return Promise.race([accepted, ended.catch((error) => error.code)]);
    }
"""


async def run(tools: Tools, program: str) -> harness.ClientRun:
    async with harness.client(
        DEPLOY + program, scheduler=tools.url, wallet=tools.wallet, node=tools.node, npm_modules=tools.modules
    ) as client:
        return (await client.finish()).ok()


async def balance_of(tools: Tools, name: str) -> str:
    key = files.load(tools.wallet.folder / f"{name}.keystore").unlock_blocking("")
    async with DcpClient(key) as own:
        request = {"address": key.address}
        answer = await own.connect(f"{tools.url}bankTeller/").request("viewAccount", request, authorize=[key])
        balance: str = answer["balance"]
        return balance


@pytest.mark.usefixtures("on_postgres")
async def test_cg_utility_and_job_utility(tools: Tools) -> None:
    lab = ("--joinKey", "lab")

    async def explained(job: str) -> list[str]:
        status, said = await tools.ours("job", "explain", job, "--output", "json")
        assert status == 0, said
        return [one["code"] for one in json.loads(said)["findings"]]

    created = await tools.json(CG_UTILITY, "create", "lab", *lab, "--joinSecret", "tiger", "--deployFee", "0.25")
    assert created["success"] and len(created["payload"]) == 22
    deployed = await run(
        tools,
        """
        say('refused', await deploy([{ joinKey: 'nothing', joinSecret: 'tiger' }]));
        say('job', await deploy([{ joinKey: 'lab', joinSecret: 'tiger' }]));
        """,
    )
    assert deployed.one("refused") == "DCPL-1100"
    job = deployed.one("job")
    listed, counted, slices, report, slice_report, mine, codes, hashed = await asyncio.gather(
        tools.json(CG_UTILITY, "listJobs", *lab),
        tools.json(JOB_UTILITY, "countJobs"),
        tools.json(JOB_UTILITY, "countSlices", job),
        tools.json(JOB_UTILITY, "fetchJobReport", job),
        tools.json(JOB_UTILITY, "fetchSliceReport", job),
        tools.json(JOB_UTILITY, "listJobs", "--statuses", "estimation"),
        explained(job),
        tools.run(CG_UTILITY, "hash", "lab", "tiger"),
    )
    assert [one["job"] for one in listed["payload"]] == [job]
    assert counted == {"cancelled": 1, "estimation": 1}
    assert (slices["total"], slices["waiting"]) == (20, 20)
    assert (report["job"], [one["name"] for one in report["computeGroups"]]) == (job, ["lab"])
    assert (slice_report["total"], slice_report["slices"]) == (20, [])
    assert [one["job"] for one in mine] == [job]
    assert codes == ["ENOWORKER"]
    assert hashed == (0, join_hash("lab", "tiger") + "\n")
    assert (await tools.json(CG_UTILITY, "change", *lab, "--name", "Lab", "--maxConcurrentJobs", "1"))["success"]
    assert (await run(tools, "say('full', await deploy([{ joinKey: 'lab', joinSecret: 'tiger' }]));")).one(
        "full"
    ) == "DCPL-1100"
    assert (await tools.json(CG_UTILITY, "removeJob", job, *lab))["success"]
    assert await explained(job) == ["ENOGROUP"]
    assert (await tools.json(JOB_UTILITY, "cancelAllJobs", "enough"))["cancelled"] == [job]
    await without_a_secret(tools)
    status, said = await tools.ours("job", "list", "--status", "cancelled")
    assert (status, job in said) == (0, True), said
    assert (await tools.json(CG_UTILITY, "delete", *lab))["success"]
    assert not (await tools.json(CG_UTILITY, "listJobs", *lab))["success"]


OPEN = """
    const joinKeystore = await wallet.get('other');
    const open = { id: '%s', joinAddress: joinKeystore.address, joinKeystore };
    for (let i = 0; i < 2; ++i) say('job', await deploy([open]));
"""


async def without_a_secret(tools: Tools) -> None:
    """A group that is joined by its address, and a job that is cancelled alone."""
    group, address = "A" * 22, tools.address("other")
    created = await tools.json(CG_UTILITY, "create", "open", "--id", group, "--joinAddress", address)
    assert created == {"success": True, "payload": group}
    jobs = (await run(tools, OPEN % group)).all("job")
    # In 5.6.1 this command lists them.
    emptied = await tools.json(CG_UTILITY, "removeAllJobs", "--id", group)
    assert sorted(one["job"] for one in emptied["payload"]) == sorted(jobs)
    await tools.json(JOB_UTILITY, "cancelJob", jobs[0], "wrong data")
    report, counted = await asyncio.gather(
        tools.json(JOB_UTILITY, "fetchJobReport", jobs[0]), tools.json(JOB_UTILITY, "countJobs")
    )
    assert (report["status"], "wrong data" in str(report)) == ("cancelled", True), report
    assert counted["estimation"] == 1


GROUPS = """
    const groups = require('dcp/compute-groups');
    const lab = { joinKey: 'lab', joinSecret: 'tiger' };
    say('created', await groups.createGroup({ ...lab }, 'Lab', 'ours', { commissionRate: 0.1 }));
    say('again', await groups.createGroup({ ...lab, joinSecret: 'lion' }, 'Lab'));
    say('changed', await groups.changeGroup({ joinKey: 'lab' }, { description: 'still ours' }));
    say('public', await deploy([{ joinKey: 'public', id: 1 }]));
    const job = compute.for(1, 20, (x) => { progress(); return x * 2; });
    job.computeGroups = [lab];
    say('results', Array.from(await job.exec(0.5)));
    say('job', job.id);
    say('listed', await groups.listJobs({ joinKey: 'lab' }));
    say('emptied', await groups.removeAllJobs({ joinKey: 'lab' }));
    say('deleted', await groups.deleteGroup({ joinKey: 'lab' }));
"""


async def test_our_own_command_for_groups(tools: Tools, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("tiger\n")
    friend = tools.address("other")

    async def group(*arguments: str) -> Any:
        status, said = await tools.ours("group", *arguments, "--output", "json")
        assert status == 0, said
        return json.loads(said)

    created = await group(
        "create", "lab", "--secret-file", str(tmp_path / "secret"), "--deployer", friend, "--max-jobs", "2",
        "--commission-rate", "0.05",
    )  # fmt: skip
    changed = await group("change", "lab", "--max-jobs", "none", "--deployer", "none", "--worker", friend)
    assert (changed["id"], changed["workers"], changed["commissionRate"]) == (created["id"], [friend], "0.05")
    assert not {"maxConcurrentJobs", "deployers"} & changed.keys()
    job = (await run(tools, "say('job', await deploy([{ joinKey: 'lab', joinSecret: 'tiger' }]));")).one("job")
    assert [one["job"] for one in await group("jobs", f"id:{created['id']}")] == [job]
    assert [(one["id"], one["jobs"]) for one in await group("list")] == [(created["id"], 1)]
    assert await group("remove", "lab", job) == {"removed": 1}
    assert await group("delete", "lab") == {"id": created["id"]}
    status, said = await tools.ours("group", "jobs", "lab")
    assert (status, said) == (1, "dcp-orchestrator: there is no compute group lab [ENOENT]\n")


@pytest.mark.docker
async def test_a_worker_in_a_group_computes_its_jobs_and_no_others(tools: Tools, tmp_path: pathlib.Path) -> None:
    worker = await harness.Command.start(
        "worker", "run", "--scheduler", tools.url, "--state", str(tmp_path / "worker"), "--sandboxes", "1",
        "--compute-group", "lab,tiger", "--no-public-group", "--payment-address", tools.address("other"),
        log=tmp_path / "worker.log",
    )  # fmt: skip
    try:
        said = await run(tools, GROUPS)
        explained: Any = json.loads((await tools.ours("job", "explain", said.one("public"), "--output", "json"))[1])
        counted, slices, found = await asyncio.gather(
            tools.json(JOB_UTILITY, "countSlices", said.one("job")),
            tools.json(JOB_UTILITY, "fetchSliceReport", said.one("job")),
            tools.run(JOB_UTILITY, "fetchResult", said.one("job"), "2", "4"),
        )
    finally:
        await worker.stop()
    assert said.one("created")["success"] and said.one("changed")["success"]
    assert not said.one("again")["success"] and said.one("again")["error"]["code"] == "EEXIST"
    assert said.one("results") == [x * 2 for x in range(1, 21)]
    assert (counted["total"], counted["computed"]) == (20, 20)
    assert [one["status"] for one in slices["slices"]] == ["accepted"] * 20
    status, printed = found
    printed = json.loads(printed[printed.index("[") :])
    assert (status, [one["slice"] for one in printed]) == (0, [2, 3, 4])
    assert all(f"what%2522%3A{2 * one['slice']}%257D" in one["value"] for one in printed), printed
    assert [one["status"] for one in said.one("listed")["payload"]] == ["finished"]
    assert said.one("emptied")["payload"] == 1
    assert said.one("deleted")["success"]
    finding = explained["findings"][0]
    assert (finding["code"], "1 is outside of its compute groups" in finding["what"]) == ("ECOMPUTEGROUP", True)
    # Ten DCC for the slices; the group's owner gets a tenth of each.
    assert [await balance_of(tools, name) for name in ("other", "id")] == ["1009", "1001"]
