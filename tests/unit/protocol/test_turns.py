"""Whose packet is next: equal shares for addresses, and within them for identities."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fair_queue import FairQueue, FairSemaphore, acting_for
from orchestrator.protocol.turns import Turns

_NAMES = st.sampled_from("abc")


@given(st.lists(st.tuples(_NAMES, _NAMES, st.floats(0.5, 4)) | st.none(), max_size=80))
def test_everything_comes_out_once_and_in_order_for_each(steps: list[tuple[str, str, float] | None]) -> None:
    queue: FairQueue[tuple[str, str, int]] = FairQueue()
    pushed: list[tuple[str, str, int]] = []
    popped: list[tuple[str, str, int]] = []
    for number, step in enumerate(steps):
        if step is not None:
            place, who, cost = step
            pushed.append((place, who, number))
            queue.push(place, who, cost, pushed[-1])
        elif queue:
            popped.append(queue.pop()[1])
        queue.validate()
    while queue:
        popped.append(queue.pop()[1])
        queue.validate()
    assert sorted(popped) == sorted(pushed)
    for place in "abc":
        for who in "abc":
            assert [one for one in popped if one[:2] == (place, who)] == [
                one for one in pushed if one[:2] == (place, who)
            ]


@given(st.lists(st.floats(0.5, 4), min_size=200, max_size=200))
def test_who_always_waits_gets_the_same_share(costs: list[float]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, cost in enumerate(costs):
        queue.push("crowd", f"bot{number % 50}", cost, "crowd")
        queue.push("one", "me", cost, "one")
    got: Counter[str] = Counter()
    while queue:
        cost, who = queue.pop()
        got[who] += cost  # type: ignore[assignment]
        if min(queue._places["one"].queues["me"][0][0] if "one" in queue._places else 0, len(queue)) == 0:
            break
        assert abs(got["crowd"] - got["one"]) <= 8


def test_a_crowd_in_ones_own_address_delays_an_identity_by_one_turn_of_each() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.push("nat", "", 1, f"stranger {number}")
    for number in range(10):
        queue.push("nat", "me", 1, f"mine {number}")
    order = [queue.pop()[1] for _ in range(20)]
    assert sum(one.startswith("mine") for one in order) == 10


def test_what_a_turn_cost_besides_is_waited_for() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(20):
        queue.push("a", "x", 1, "a")
        queue.push("b", "y", 1, "b")
    assert queue.pop()[1] == "a"
    queue.charge("a", "x", 10)
    queue.charge("nobody", "z", 10)
    assert [queue.pop()[1] for _ in range(10)] == ["b"] * 10
    queue.validate()


def test_who_was_away_has_saved_up_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(30):
        queue.push("a", "x", 1, "a")
    for _ in range(10):
        queue.pop()
    for _ in range(20):
        queue.push("b", "y", 1, "b")
    assert Counter(queue.pop()[1] for _ in range(20))["a"] == 10


async def test_turns_are_given_at_once_while_there_is_little_to_do() -> None:
    turns = Turns(4)
    for _ in range(4):
        await turns.take("a")
    assert turns.waited == 0


async def test_turns_of_a_crowd_do_not_keep_another_waiting() -> None:
    turns = Turns(4)
    order: list[str] = []

    async def work(place: str) -> None:
        await turns.take(place)
        order.append(place)

    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(work("crowd"))
        group.create_task(work("one"))
    assert len(order) == 201
    assert order.index("one") < 12
    assert turns.waited > 0
    await asyncio.sleep(0)
    assert not len(turns)


async def test_a_turn_that_nobody_waits_for_any_more_is_passed_on() -> None:
    turns = Turns(1)
    waiting = [asyncio.ensure_future(turns.take("a")) for _ in range(10)]
    await asyncio.sleep(0)
    for one in waiting[1:9]:
        one.cancel()
    async with asyncio.timeout(5):
        await waiting[9]
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_crowd_before_a_semaphore_does_not_keep_another_waiting() -> None:
    semaphore, order, inside = FairSemaphore(2), [], 0

    async def work(place: str, who: str) -> None:
        nonlocal inside
        acting_for.set((place, who))
        async with semaphore:
            inside += 1
            assert inside <= 2
            await asyncio.sleep(0)
            inside -= 1
        order.append(place)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(work("crowd", f"bot{number}"))
        group.create_task(work("one", "me"))
    assert len(order) == 101
    assert order.index("one") < 8


@given(st.lists(st.sampled_from(["in", "out", "cancel"]), max_size=60))
def test_a_semaphore_loses_no_place(steps: list[str]) -> None:
    async def run() -> None:
        semaphore = FairSemaphore(2)
        inside: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def work() -> None:
            async with semaphore:
                done = asyncio.Event()
                inside.append(done)
                try:
                    await done.wait()
                finally:
                    inside.remove(done)

        for step in steps:
            if step == "in":
                tasks.append(asyncio.ensure_future(work()))
            elif step == "out" and inside:
                inside[0].set()
            elif step == "cancel" and tasks:
                tasks.pop().cancel()
            await asyncio.sleep(0)
            assert len(inside) <= 2
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        for _ in range(2):
            async with asyncio.timeout(1):
                await semaphore.__aenter__()

    asyncio.run(run())
