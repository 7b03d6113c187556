"""Creates whose answer nobody heard: how long the reaper goes on looking for what they may yet make."""

from __future__ import annotations

from orchestrator.worker.docker_runtime.given_up import GivenUp


def test_looked_for_until_the_engine_has_had_its_time() -> None:
    given_up = GivenUp(patience_s=5.0)
    assert not given_up.open(0.0)
    given_up.add("a", 10.0)
    given_up.add("b", 12.0)
    assert given_up.open(16.9)
    assert not given_up.open(17.0)


def test_over_as_soon_as_each_has_turned_up() -> None:
    given_up = GivenUp(patience_s=5.0)
    given_up.add("a", 10.0)
    given_up.add("b", 10.0)
    given_up.settle(["a", "somebody's"])
    assert given_up.open(10.5)
    given_up.settle(["b"])
    assert not given_up.open(10.5)


def test_an_engine_that_does_not_answer_is_given_its_time_later() -> None:
    given_up = GivenUp(patience_s=5.0)
    given_up.postpone(5.0)
    assert not given_up.open(5.0), "there was none"
    given_up.add("a", 10.0)
    given_up.postpone(14.0)
    assert given_up.open(18.9)
    assert not given_up.open(19.0)
