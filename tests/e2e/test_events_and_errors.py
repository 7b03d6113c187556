"""What a job owner hears: console, progress, custom events, and every way in which a work function can go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.e2e.harness import ClientRun

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]


async def test_console_messages_with_repeat_counts(run: Run) -> None:
    program = """
        const job = compute.for(1, 1, () => {
            progress();
            console.log('hello', { a: 1 });
            for (let i = 0; i < 5; i++) console.warn('again');
            console.error('last');
            return 1;
        });
        watch(job);
        await job.exec();
    """
    outcome = (await run(program)).ok()
    messages = [(event["level"], event.get("message"), event.get("same", 1)) for event in outcome.all("console")]
    assert messages[0] == ("log", ["hello", {"a": 1}], 1)
    assert messages[1][:2] == ("warn", ["again"])
    assert sum(same for level, _, same in messages if level == "warn") >= 5
    assert messages[-1][:2] == ("error", ["last"])


async def test_custom_events(run: Run) -> None:
    program = """
        const job = compute.for(1, 3, (i) => { progress(); work.emit('milestone', { i, bytes: new Uint8Array([i]) }); return i; });
        job.work.on('milestone', (event) => say('milestone', [event.sliceNumber, event.data.i]));
        await job.exec();
    """
    outcome = (await run(program)).ok()
    assert sorted(outcome.all("milestone")) == [[1, 1], [2, 2], [3, 3]]


async def test_results_and_status_arrive_while_the_job_runs(run: Run) -> None:
    program = """
        const job = compute.for(1, 40, (i) => { progress(); return i; });
        watch(job);
        await job.exec();
        say('run', job.status.runStatus);
    """
    outcome = (await run(program)).ok()
    assert sorted(event["sliceNumber"] for event in outcome.all("result")) == list(range(1, 41))
    last = outcome.all("status")[-1]
    assert (last["total"], last["computed"], last["runStatus"]) == (40, 40, "finished")
    assert all(
        event["distributed"] <= event["total"] and event["computed"] <= event["total"]
        for event in outcome.all("status")
    )
    assert outcome.one("run") == "finished"


async def test_the_public_part_of_the_job_is_visible_to_the_work_function(run: Run) -> None:
    program = """
        const job = compute.for(1, 1, () => { progress(); return work.job.public; });
        job.public.name = 'a name';
        say('public', Array.from(await job.exec())[0]);
    """
    assert (await run(program)).ok().one("public")["name"] == "a name"


async def test_some_slices_throw_and_the_others_come_back(run: Run) -> None:
    program = """
        const job = compute.for(1, 12, (i) => { progress(); if (i === 5) throw new RangeError('five is right out'); return i; });
        watch(job);
        say('results', Array.from(await job.exec()));
    """
    outcome = await run(program)
    errors = outcome.all("error")
    assert errors, outcome
    assert {error["sliceNumber"] for error in errors} == {5}
    assert all("five is right out" in error["message"] for error in errors if error["name"] == "RangeError")
    assert [error["name"] for error in errors].count("RangeError") == 3, "as many attempts as a slice has"
    assert [error["code"] for error in errors].count("ETOOMANYATTEMPTS") == 1
    delivered = {event["sliceNumber"]: event["result"] for event in outcome.all("result")}
    assert {n: delivered[n] for n in delivered if n != 5} == {n: n for n in range(1, 13) if n != 5}


async def test_a_job_whose_every_slice_throws_stops(run: Run) -> None:
    program = """
        const job = compute.for(1, 50, () => { progress(); throw new Error('never works'); });
        watch(job);
        await job.exec();
    """
    outcome = await run(program)
    assert outcome.status == 3
    assert outcome.one("failed")["code"] == "ETOOMANYERRORS"
    assert any("never works" in error["message"] for error in outcome.all("error"))


async def test_a_syntax_error_is_told_and_stops_the_job(run: Run) -> None:
    program = """
        const job = compute.for(1, 5, '(i) => { progress(); return i +; }');
        watch(job);
        await job.exec();
    """
    outcome = await run(program)
    assert outcome.status == 3
    assert outcome.one("failed")["code"] == "ETOOMANYERRORS"
    assert any(error["name"] == "SyntaxError" for error in outcome.all("error"))


async def test_a_work_function_that_never_calls_progress(run: Run) -> None:
    program = """
        const job = compute.for(1, 4, (i) => i);
        watch(job);
        await job.exec();
    """
    outcome = await run(program)
    assert outcome.status == 3
    assert outcome.all("noProgress")
    assert outcome.one("failed")["code"] in {"ENOPROGRESS", "ETOOMANYERRORS"}


async def test_a_slice_that_is_rejected_by_its_own_work_function(run: Run) -> None:
    program = """
        const job = compute.for(1, 3, (i) => { progress(); if (i === 2) work.reject('not on this machine'); return i; });
        watch(job);
        say('results', Array.from(await job.exec()));
    """
    outcome = await run(program)
    delivered = {event["sliceNumber"] for event in outcome.all("result")}
    assert 2 not in delivered


async def test_cancel(run: Run) -> None:
    program = """
        const job = compute.for(1, 100000, (i) => { progress(); const end = Date.now() + 20; while (Date.now() < end); return i; });
        watch(job);
        let cancelled = false;
        job.on('result', () => { if (!cancelled) { cancelled = true; job.cancel('enough').then((a) => say('answer', a)); } });
        await job.exec();
    """
    outcome = await run(program)
    assert outcome.status == 3
    assert "enough" in outcome.one("failed")["message"]
    assert outcome.all("cancel")


async def test_not_enough_funds(run: Run) -> None:
    program = """
        const job = compute.for(1, 10, (i) => { progress(); return i; });
        await job.exec(1e15);
    """
    outcome = await run(program)
    assert outcome.status == 3
    assert outcome.one("failed")["code"] == "ENOFUNDS"


async def test_results_are_fetched_again_from_the_scheduler(run: Run) -> None:
    program = """
        const job = compute.for(1, 8, (i) => { progress(); return i * 3; });
        await job.exec();
        job.results.reset();
        await job.results.fetch();
        say('fetched', Array.from(job.results));
        const { fetchResults } = require('dcp/job');
        say('other way', (await fetchResults(job.id)).length);
    """
    outcome = await run(program)
    assert outcome.one("fetched") == [3 * i for i in range(1, 9)], outcome


async def test_a_job_without_collected_results_still_stops(run: Run) -> None:
    program = """
        const job = compute.for(1, 5, (i) => { progress(); return i; });
        job.collateResults = false;
        watch(job);
        await job.exec();
    """
    outcome = (await run(program)).ok()
    assert outcome.all("stop")
