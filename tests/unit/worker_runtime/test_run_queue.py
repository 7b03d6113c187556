"""How long a program stood in a run queue: the kernel's figure of a real process, and its absence."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys

import pytest

from orchestrator.worker.run_queue import RunQueue

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


@pytest.fixture
def two_on_one_core():
    core = str(min(os.sched_getaffinity(0)))
    made = [subprocess.Popen([sys.executable, "-c", SPIN, core], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in made:
            assert process.stdout is not None
            process.stdout.readline()
        yield [process.pid for process in made]
    finally:
        for process in made:
            process.kill()
            process.communicate()


def test_who_shares_a_core_waits_for_it(two_on_one_core):
    queue = RunQueue(lambda: {two_on_one_core[0], 0})
    first = queue.waited_ns()
    assert first is not None
    while True:  # the other one runs now and then
        now = queue.waited_ns()
        assert now is not None
        if now - first > 1_000_000:
            break
    queue.close()
    assert queue.waited_ns() is None


def test_the_thread_that_works_counts(tmp_path: pathlib.Path):
    for thread, text in ((7, "10 900 1"), (8, "5000 20 1")):
        (tmp_path / f"7/task/{thread}").mkdir(parents=True)
        (tmp_path / f"7/task/{thread}/schedstat").write_text(text)
    assert RunQueue(lambda: {7}, tmp_path).waited_ns() == 20


@pytest.mark.parametrize("processes", [set(), {0}, {123_456_789}])
def test_what_cannot_be_seen_is_not_guessed(processes):
    assert RunQueue(lambda: processes).waited_ns() is None


def test_without_descriptors_it_is_looked_for_later():
    queue = RunQueue(lambda: {os.getpid()})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert queue.waited_ns() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert queue.waited_ns() is not None
    queue.close()


def test_a_thread_that_has_ended_tells_nothing():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    queue = RunQueue(lambda: {process.pid})
    assert queue.waited_ns() is not None
    process.communicate(b"\n")
    assert queue.waited_ns() is None
