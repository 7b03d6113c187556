"""Results that mean the same have one fingerprint, however a worker wrote them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.jobs.fingerprints import fingerprint
from orchestrator.jobs.values import encode_data_uri, json_uri, kvin_uri, result_uri

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(values)
@settings(max_examples=40)
def test_the_writing_does_not_matter(value: Any) -> None:
    written = {json_uri(value), kvin_uri(value, 8), kvin_uri(value, 9)}
    assert len({fingerprint(uri) for uri in written}) == 1


@given(values, values)
def test_other_values_have_others(one: Any, other: Any) -> None:
    same = kvin_uri(one) == kvin_uri(other)
    assert (fingerprint(kvin_uri(one)) == fingerprint(kvin_uri(other))) == same


def test_numbers_are_what_they_are_in_javascript() -> None:
    assert fingerprint("data:application/json,3") == fingerprint("data:application/json,3.0")
    assert fingerprint("data:application/json,3") != fingerprint("data:application/json,%223%22")
    assert fingerprint("data:application/json,0") != fingerprint("data:application/json,-0.0")


def test_official_and_our_worker_write_a_number_differently() -> None:
    official = result_uri({"string": '{"_serializeVerId":"v8","what":{"raw":4}}', "method": "kvin"})
    ours = result_uri({"string": "4", "method": "json", "MIMEType": "application/json"})
    assert official != ours
    assert fingerprint(official) == fingerprint(ours)


@given(st.text())
def test_whatever_it_is_it_has_one(text: str) -> None:
    for uri in (text, f"data:{text}", f"data:application/x-kvin,{text}", encode_data_uri(text, "")):
        assert len(fingerprint(uri)) == 64
