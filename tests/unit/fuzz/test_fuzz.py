"""The short version of `python -m tests.fuzz`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import fuzz


@pytest.fixture(scope="module", autouse=True)
def services() -> Iterator[None]:
    with fuzz.services():
        yield


@pytest.mark.parametrize("name", sorted(fuzz.DECODERS))
def test_nothing_but_its_own_errors_comes_out_of_a_decoder(name: str) -> None:
    fuzz.fuzz(name, 60, seed=1)
