"""Known ways out of a container: which versions have them, and whose word is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.doctor import advisories
from orchestrator.worker.doctor.advisories import Package, judge_component, parse_version, upstream_fixed
from orchestrator.worker.doctor.check import Status

LEAK = frozenset({"CVE-2024-21626"})
ALL = LEAK | {"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("1.1.11", Status.FAIL),
        ("1.1.12", Status.FAIL),  # the second set is not mended
        ("1.2.7", Status.FAIL),
        ("1.2.8", Status.OK),
        ("1.3.0", Status.FAIL),
        ("1.3.3", Status.OK),
        ("1.4.0-rc.2", Status.FAIL),
        ("1.4.0-rc.3", Status.OK),
        ("1.4.0", Status.OK),
        ("2.0.0", Status.OK),
    ],
)
def test_an_upstream_runc_is_judged_by_its_version(version: str, status: Status) -> None:
    assert judge_component("runc", version, "4bccb38cc9cf198d52bebf2b3a90cd14e7af8c06", None).status is status


@pytest.mark.parametrize(
    ("mended", "status"),
    [
        (ALL, Status.OK),
        (LEAK, Status.WARN),
        (frozenset(), Status.FAIL),
        (None, Status.WARN),  # a package without a changelog: nobody knows
    ],
)
def test_a_distributions_runc_is_judged_by_its_changelog(mended: frozenset[str] | None, status: Status) -> None:
    package = Package("runc", "1.1.5+ds1-1+deb12u1", mended)
    check = judge_component("runc", "1.1.5+ds1", package.version, package)
    assert check.status is status
    assert (check.remedy == "") is (status is Status.OK)


def test_a_patched_version_elsewhere_is_not_called_vulnerable() -> None:
    """The Engine is on another machine: only what it says of itself is known."""
    check = judge_component("runc", "1.1.5+ds1", "1.1.5+ds1-1+deb12u1", None)
    assert check.status is Status.WARN
    assert "cannot be seen" in check.found
    assert judge_component("runc", "1.1.7-0ubuntu1~22.04.2", "", None).status is Status.WARN


def test_the_changelog_of_a_runc_with_the_first_hole_open_is_no_excuse() -> None:
    package = Package("runc", "1.1.5+ds1-1", ALL - LEAK)
    check = judge_component("runc", "1.1.5+ds1", package.version, package)
    assert check.status is Status.FAIL
    assert "CVE-2024-21626" in check.found
    assert "CVE-2025" not in check.found


def test_an_engine_that_says_nothing_is_warned_of() -> None:
    assert judge_component("containerd", "", "", None).status is Status.WARN


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("1.6.0", Status.FAIL),
        ("1.6.20", Status.WARN),
        ("1.7.29", Status.OK),
        ("2.2.0", Status.OK),
        ("2.3.1", Status.OK),
    ],
)
def test_containerd(version: str, status: Status) -> None:
    assert judge_component("containerd", version, "1c4457e00facac03ce1d75f7b6777a7a851e5c41", None).status is status


def test_versions() -> None:
    assert parse_version("nonsense") is None
    order = ["1.0.0-alpha.1", "1.0.0-beta2", "1.0.0~rc93+ds1", "1.0.0-rc.94", "1.0.0", "v1.0.1", "1.1"]
    parsed = [parse_version(text) for text in order]
    assert None not in parsed
    assert parsed == sorted(parsed, key=lambda version: version or (0, 0, 0, "", 0))


@given(st.integers(0, 30), st.integers(0, 40), st.sampled_from(["runc", "containerd"]), st.data())
def test_a_later_version_of_a_line_never_has_more_holes(
    minor: int, patch: int, program: str, data: st.DataObject
) -> None:
    later = patch + data.draw(st.integers(0, 10))
    for advisory in advisories.ADVISORIES[program]:
        if upstream_fixed((1, minor, patch, "z", 0), advisory.fixed):
            assert upstream_fixed((1, minor, later, "z", 0), advisory.fixed)


def test_every_floor_is_a_version() -> None:
    for several in advisories.ADVISORIES.values():
        for advisory in several:
            assert all(parse_version(text) is not None for text in advisory.fixed)
