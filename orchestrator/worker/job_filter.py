"""Pure: which jobs the owner wants computed here, and which not. What is kept out wins over what is let in."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from orchestrator.errors import InvalidInput
from orchestrator.worker.task import JobOffer

_LONGEST_NAME = 256  # of a job's name, as far as it is looked at: the name is the job's, the expression the owner's


@dataclasses.dataclass(frozen=True, slots=True)
class JobFilter:
    """Ids of jobs and of compute groups; expressions are searched for in a job's name, large or small letters alike."""

    job_ids: frozenset[str] = frozenset()  # only these, if there are any
    names: tuple[re.Pattern[str], ...] = ()  # only jobs with such a name, if there are any
    blocked_ids: frozenset[str] = frozenset()
    blocked_names: tuple[re.Pattern[str], ...] = ()
    blocked_groups: frozenset[str] = frozenset()

    def refusal(self, offer: JobOffer) -> tuple[str, str] | None:
        """(code, in people's words) when the job is not wanted."""
        name = offer.name[:_LONGEST_NAME]
        if offer.job_id in self.blocked_ids:
            return "EJOBFILTER", "its id is blocked (--block-job-id)"
        if offer.group_id and offer.group_id in self.blocked_groups:
            return "EJOBFILTER", f"its compute group {offer.group_id} is blocked (--block-group)"
        blocked = next((one for one in self.blocked_names if one.search(name)), None)
        if blocked is not None:
            return "EJOBFILTER", f"its name matches {blocked.pattern!r}, which is blocked (--block-job-name)"
        if self.job_ids and offer.job_id not in self.job_ids:
            return "EJOBNOTWANTED", "it is not one of --job-id"
        if self.names and not any(one.search(name) for one in self.names):
            return "EJOBFILTER", f"its name {name!r} matches no --job-name"
        return None


def expressions(setting: str, texts: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Raises `InvalidInput` naming the setting and what is wrong."""
    found = []
    for text in texts:
        try:
            found.append(re.compile(text, re.IGNORECASE))
        except re.error as error:
            raise InvalidInput(f"{setting}: {text[:60]!r} is no regular expression: {error}") from None
    return tuple(found)
