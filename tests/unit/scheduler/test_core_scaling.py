"""The benchmark that shows what a slice costs as workers and slices grow: a small world comes to its end in it."""

from __future__ import annotations

import pytest

from benchmarks.core_scaling import run_world


@pytest.mark.parametrize(("workers", "slices"), [(1, 30), (20, 300), (100, 50)])
def test_a_job_is_computed_and_paid_to_the_last_slice(workers: int, slices: int) -> None:
    report = run_world(workers, slices)
    assert (report["workers"], report["slices"]) == (workers, slices)
    assert 1 <= report["tasks"] <= slices
