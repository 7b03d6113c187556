"""Quiet hours: what may be written, when they hold, and the very moment at which that changes."""

from __future__ import annotations

import datetime
import zoneinfo

import hypothesis
import pytest
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.worker.quiet_hours import DAYS, next_change, parse, window_at

UTC = datetime.UTC
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def at(text: str, zone: datetime.tzinfo = UTC) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone)


def quiet(entry: str, text: str, zone: datetime.tzinfo = UTC) -> bool:
    return window_at(parse([entry]), at(text, zone), zone) is not None


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("08:00-18:00", "2026-03-04T08:00", "2026-03-04T18:00"),
        ("mon-fri 08:00-18:00", "2026-03-06T17:59", "2026-03-07T09:00"),  # Friday, Saturday
        ("22:00-06:00", "2026-03-05T05:59", "2026-03-05T06:00"),
        ("fri 22:00-06:00", "2026-03-07T05:00", "2026-03-06T05:00"),  # it belongs to the day on which it begins
        ("sun 22:00-06:00", "2026-03-09T05:00", "2026-03-08T05:00"),  # over the end of the week
        ("sat,mon 10:00-11:00", "2026-03-09T10:30", "2026-03-08T10:30"),
        ("sat-mon 10:00-11:00", "2026-03-08T10:30", "2026-03-10T10:30"),
        ("00:00-24:00", "2026-03-10T23:59", ""),
        ("Mon 8:00-9:00", "2026-03-09T08:30", "2026-03-09T09:00"),
        ("12:00-00:00", "2026-03-09T23:59", "2026-03-09T00:00"),
    ],
)
def test_windows(entry, inside, outside):
    assert quiet(entry, inside)
    assert not outside or not quiet(entry, outside)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("", "empty"),
        ("mon", "'mon' is not a span"),
        ("08-18", "not a span"),
        ("25:00-26:00", "there is no 25:00"),
        ("08:60-09:00", "there is no 08:60"),
        ("24:00-06:00", "no day begins at 24:00"),
        ("08:00-08:00", "a whole day is 00:00-24:00"),
        ("moon 08:00-09:00", "'moon' is not one of mon, tue"),
        ("mon- 08:00-09:00", "'' is not one of"),
        ("mon fri 08:00-09:00", "more than days and hours"),
    ],
)
def test_what_cannot_be_is_explained(entry, why):
    with pytest.raises(InvalidInput, match="quiet_hours") as caught:
        parse([entry])
    assert why in caught.value.message and "22:00-06:00" in caught.value.message


def test_the_next_change():
    windows = parse(["mon-fri 08:00-18:00"])
    assert next_change(windows, at("2026-03-06T12:00"), UTC) == at("2026-03-06T18:00")
    assert next_change(windows, at("2026-03-06T18:00"), UTC) == at("2026-03-09T08:00")  # the weekend is free


def test_windows_that_meet_are_one():
    windows = parse(["08:00-12:00", "12:00-18:00"])
    assert next_change(windows, at("2026-03-06T09:00"), UTC) == at("2026-03-06T18:00")


def test_what_never_changes():
    assert next_change((), at("2026-03-06T09:00"), UTC) is None
    assert next_change(parse(["00:00-24:00"]), at("2026-03-06T09:00"), UTC) is None


def test_the_clock_skips_an_hour():
    """On 2026-03-29 in Berlin, 02:00 becomes 03:00: a window from 02:30 begins when the clock jumps over it."""
    windows = parse(["02:30-05:00"])
    assert next_change(windows, at("2026-03-29T00:30", BERLIN), BERLIN) == at("2026-03-29T01:00")
    assert next_change(windows, at("2026-03-29T01:00"), BERLIN) == at("2026-03-29T03:00")


def test_the_clock_shows_an_hour_twice():
    """On 2026-10-25 in Berlin, 03:00 becomes 02:00: a window from 02:00 to 02:30 comes twice."""
    windows = parse(["02:00-02:30"])
    changes, moment = [], at("2026-10-24T22:00")
    for _ in range(4):
        moment = next_change(windows, moment, BERLIN)
        changes.append(moment)
    assert changes == [at(f"2026-10-25T{text}") for text in ("00:00", "00:30", "01:00", "01:30")]


def test_a_zone_counts():
    assert quiet("08:00-09:00", "2026-07-01T08:30", BERLIN)
    assert window_at(parse(["08:00-09:00"]), at("2026-07-01T06:30"), BERLIN)


entries = st.builds(
    lambda days, begin, end: f"{days}{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}",
    st.sampled_from(["", *(f"{day} " for day in DAYS), "fri-mon "]),
    st.integers(0, 1439),
    st.integers(0, 1439),
).filter(lambda text: text[-11:-6] != text[-5:])


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.lists(entries, min_size=1, max_size=3),
    st.datetimes(datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1), timezones=st.just(UTC)),
    st.sampled_from([UTC, BERLIN, zoneinfo.ZoneInfo("Australia/Lord_Howe"), zoneinfo.ZoneInfo("America/St_Johns")]),
)
def test_nothing_changes_before_the_next_change(texts, moment, zone):
    windows = parse(texts)
    change = next_change(windows, moment, zone)
    now = window_at(windows, moment, zone) is not None
    if change is None:
        change = moment + datetime.timedelta(days=8)
    else:
        assert (window_at(windows, change, zone) is not None) is not now
    step = (change - moment) / 97
    for number in range(97):
        assert (window_at(windows, moment + number * step, zone) is not None) is now
    before = change - datetime.timedelta(microseconds=1)
    assert before < moment or (window_at(windows, before, zone) is not None) is now
