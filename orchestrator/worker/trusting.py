"""Pure: whom the worker takes for its Scheduler: the key that answered first, and those that its owner names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orchestrator.errors import InvalidInput
from orchestrator.wallet import addresses


@dataclasses.dataclass(frozen=True, slots=True)
class KeyChange:
    """Who answers at `url` signs as `now`, and it was `before`. Nothing is sent to it but the question who it is."""

    url: str
    before: str
    now: str

    @property
    def what(self) -> str:
        return (
            f"the Scheduler's key has changed: {self.url} was {self.before}, now it is {self.now}; it is not believed"
        )

    @property
    def remedy(self) -> str:
        return (
            f"ask the Scheduler's operator whether {self.now} is its new address; if so, start the worker again with "
            f"--accept-scheduler-key {self.now}"
        )


def accepted_keys(texts: Iterable[str]) -> frozenset[str]:
    """The setting accept_scheduler_key as addresses. Raises `InvalidInput` naming the one that is none."""
    found = set()
    for text in texts:
        try:
            found.add(addresses.checksum(text))
        except InvalidInput as error:
            raise InvalidInput(f"accept_scheduler_key is {text!r}: {error.message}") from None
    return frozenset(found)
