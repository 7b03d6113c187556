from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.protocol.validity import InvalidRequestTime, Stamps

NOW = 1_800_000_000.0


def _validity(**changes: Any) -> dict[str, Any]:
    return {"stamp": "s", "ttl": 120, "time": NOW, **changes}


def test_a_stamp_is_good_once() -> None:
    stamps = Stamps()
    stamps.check(_validity(), NOW)
    with pytest.raises(InvalidRequestTime) as caught:
        stamps.check(_validity(time=NOW + 1), NOW + 1)
    assert caught.value.code == "EDUP"


@pytest.mark.parametrize(
    ("time", "ttl", "code"),
    [
        (NOW - 719, 120, None),
        (NOW - 721, 120, "EEXPIRED"),
        (NOW - 1199, 9999, None),
        (NOW - 1201, 9999, "EEXPIRED"),
        (NOW - 614, 1, None),
        (NOW - 616, 1, "EEXPIRED"),
        (NOW - 719, None, None),
        (NOW + 599, 120, None),
        (NOW + 601, 120, "ETIMETRAVEL"),
    ],
)
def test_times(time: float, ttl: Any, code: str | None) -> None:
    stamps = Stamps()
    if code is None:
        stamps.check(_validity(time=time, ttl=ttl), NOW)
        return
    with pytest.raises(InvalidRequestTime) as caught:
        stamps.check(_validity(time=time, ttl=ttl), NOW)
    assert caught.value.code == code
    assert len(stamps) == 0
    if code == "EEXPIRED":
        assert caught.value.info == {"timestamp": NOW, "offset": time - NOW}


@pytest.mark.parametrize(
    "validity",
    [
        None,
        [],
        {},
        _validity(stamp=""),
        _validity(stamp=1),
        _validity(stamp="x" * 65),
        _validity(time=None),
        _validity(time="1"),
        _validity(time=True),
        _validity(time=math.nan),
        _validity(time=math.inf),
    ],
)
def test_malformed(validity: Any) -> None:
    with pytest.raises(InvalidRequestTime) as caught:
        Stamps().check(validity, NOW)
    assert caught.value.code == "EINVAL"


def test_memory_is_bounded_and_the_latest_are_remembered() -> None:
    stamps = Stamps(capacity=100)
    for i in range(1000):
        stamps.check(_validity(stamp=f"s{i}"), NOW)
        assert len(stamps) <= 200
    with pytest.raises(InvalidRequestTime):
        stamps.check(_validity(stamp="s999"), NOW)
    with pytest.raises(InvalidRequestTime):
        stamps.check(_validity(stamp="s900"), NOW)


def test_stamps_are_forgotten_with_time() -> None:
    stamps = Stamps()
    for i in range(50):
        now = NOW + i * 2000
        stamps.check(_validity(stamp=f"s{i}", time=now), now)
        assert len(stamps) <= 2
