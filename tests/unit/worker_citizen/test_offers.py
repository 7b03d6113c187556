"""What the owner offers and refuses: groups, jobs by id, name and group, worktimes, cores."""

from __future__ import annotations

import types

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.jobs import words
from orchestrator.settings import WorkerSettings
from orchestrator.worker import groups, job_filter, limit_settings, offers, task


def job(job_id: str = "job", name: str = "a job", group: str = "g") -> task.JobOffer:
    return task.parse_job(job_id, {"codeLocation": "data:,f", "public": {"name": name}, "jobCgId": f"{job_id}-{group}"})


# -- groups --------------------------------------------------------------------------------------------------------


def test_a_secret_and_its_hash_prove_the_same():
    join_hash = words.join_hash("team", "se,cret")
    assert groups.parse("team,se,cret") == groups.parse(f"team,{join_hash}") == ("team", join_hash)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("team-secret1", "has no comma"),
        (",secret1", "is no join key"),
        ("team,", "has no secret"),
        ("team,eh1-secret1", "is not eh1- and 64 digits"),
        ("public,secret1", "--no-public-group"),
    ],
)
def test_groups_that_cannot_be(entry, why):
    with pytest.raises(InvalidInput) as caught:
        groups.parse(entry)
    assert why in caught.value.message and "secret1" not in caught.value.message


def test_settings_do_not_show_secrets():
    settings = WorkerSettings(compute_groups=("team,hush",), fetch_proxy="http://a:hush@b/")
    assert "hush" not in repr(settings) and "hush" not in str(settings)


# -- jobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({}, None),
        ({"job_ids": ("job",)}, None),
        ({"job_ids": ("other",)}, "EJOBNOTWANTED"),
        ({"block_job_ids": ("job",)}, "EJOBFILTER"),
        ({"job_ids": ("job",), "block_job_ids": ("job",)}, "EJOBFILTER"),
        ({"job_name": ("^A ",)}, None),
        ({"job_name": ("pi", "jo.$")}, None),
        ({"job_name": ("pi",)}, "EJOBFILTER"),
        ({"block_job_name": ("mine|JOB",)}, "EJOBFILTER"),
        ({"block_groups": ("g",)}, "EJOBFILTER"),
        ({"block_groups": ("h",)}, None),
    ],
)
def test_which_jobs_are_wanted(settings, code):
    refusal = offers.job_filter_of(WorkerSettings(**settings)).refusal(job())
    assert (refusal and refusal[0]) == code


def test_an_expression_that_is_none():
    with pytest.raises(InvalidInput, match=r"block_job_name: '\(' is no regular expression"):
        offers.job_filter_of(WorkerSettings(block_job_name=("(",)))


def test_long_names_are_cut():
    found = job_filter.JobFilter(blocked_names=job_filter.expressions("x", ["end$"])).refusal(
        job(name="a" * 9999 + "end")
    )
    assert found is None


# -- worktimes and cores -------------------------------------------------------------------------------------------

HAVE = ({"name": "map-basic", "version": "1.0.0"}, {"name": "pyodide", "version": "0.28.0"})


def test_worktimes():
    assert offers.worktimes(WorkerSettings(), HAVE) == list(HAVE)
    assert offers.worktimes(WorkerSettings(worktimes=("pyodide",)), HAVE) == [HAVE[1]]
    with pytest.raises(InvalidInput, match="it has map-basic, pyodide"):
        offers.worktimes(WorkerSettings(worktimes=("cobol",)), HAVE)


@pytest.mark.parametrize(
    ("settings", "places", "cpus"),
    [
        ({}, 8, 1.0),
        ({"cores": 2}, 2, 1.0),
        ({"cores": 0.5}, 1, 0.5),
        ({"utilization": 0.5}, 4, 1.0),
        ({"utilization": 0.3}, 3, 0.8),
        ({"cores": 100}, 8, 1.0),
        ({"cores": 3, "sandboxes": 6}, 6, 0.5),
        ({"sandboxes": 16}, 16, 1.0),
        ({"utilization": 0.01}, 1, 0.08),
        ({"cpus": 0.25}, 8, 0.25),
    ],
)
def test_cores_become_places_and_quotas(monkeypatch, settings, places, cpus):
    monkeypatch.setattr(limit_settings, "os", types.SimpleNamespace(cpu_count=lambda: 8))
    given = WorkerSettings(**settings)
    assert limit_settings.places(given) == places
    assert limit_settings.kernel_limits(given).cpus == pytest.approx(cpus)
