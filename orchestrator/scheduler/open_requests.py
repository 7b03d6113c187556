"""Requests for work that are being answered, and those among them whose answers nobody will read.

A request waits for work. Its worker may die meanwhile, or lose its session: then nothing is leased to it any more, for
whoever has a lease that nobody knows of keeps its slices from all others. Kept in memory: a request does not outlive
its process.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator

from orchestrator.protocol.server import ServerConnection

REMEMBERED = 10_000
"""names of requests that were abandoned, should one come later than its abandonment"""


@dataclasses.dataclass(slots=True, eq=False)
class OpenRequest:
    """`id` is the worker's own name for it; official workers give none. `abandoned`: lease nothing to it."""

    session: ServerConnection
    id: str | None
    abandoned: bool = False

    @property
    def peer(self) -> str:
        return self.session.peer


class OpenRequests:
    def __init__(self) -> None:
        self._open: dict[tuple[str, str], set[OpenRequest]] = {}
        self._abandoned: collections.OrderedDict[tuple[str, str, str], None] = collections.OrderedDict()

    @contextlib.contextmanager
    def answering(self, worker: str, session: ServerConnection, request_id: str | None) -> Iterator[OpenRequest]:
        """While the block runs the request is open."""
        request, peer = OpenRequest(session, request_id), session.peer
        if request_id is not None:
            request.abandoned = (worker, peer, request_id) in self._abandoned
        mine = self._open.setdefault((worker, peer), set())
        mine.add(request)
        try:
            yield request
        finally:
            mine.discard(request)
            if not mine and self._open.get((worker, peer)) is mine:
                del self._open[worker, peer]

    def abandon(
        self,
        worker: str,
        peer: str,
        ids: Collection[str] | None = None,
        *,
        unless: Callable[[OpenRequest], bool] = lambda _: False,
    ) -> None:
        """Nobody waits for the requests of this worker with these ids; for none of them, without `ids`."""
        for name in ids or ():
            self._abandoned[worker, peer, name] = None
        while len(self._abandoned) > REMEMBERED:
            self._abandoned.popitem(last=False)
        for request in self._open.get((worker, peer), ()):
            if (ids is None or request.id in ids) and not unless(request):
                request.abandoned = True

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))
