"""Which session each worker asks over, and to which its leases went. Kept in memory: sessions end with the process.

A worker may be there twice under one name: a client that computes two jobs itself (`job.localExec` of dcp-client 5.6.1)
starts two with the same id and identity. When one of them says that it holds nothing, the other has what it has.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable, Container, Iterable

from orchestrator.protocol.server import ServerConnection

LEASES_KEPT = 20_000
NAMES_KEPT = 1000
"""workers remembered per session; an honest one is one"""


class Presence(Container[str]):
    """`left(worker)` is called when the session over which a worker asked last has ended.

    Contains the workers whose session has lost its transport: killed ones, and those that end without a farewell, as
    dcp-worker 3.3.19 does. They may come back; nobody waits for it.
    """

    def __init__(self, left: Callable[[str], None]) -> None:
        self._left = left
        self._asking: weakref.WeakValueDictionary[str, ServerConnection] = weakref.WeakValueDictionary()
        self._names: weakref.WeakKeyDictionary[ServerConnection, set[str]] = weakref.WeakKeyDictionary()
        self._leases: collections.OrderedDict[int, weakref.ref[ServerConnection]] = collections.OrderedDict()
        self.served: weakref.WeakSet[ServerConnection] = weakref.WeakSet()
        """Sessions over which slices went out here, ever."""

    def asks(self, worker: str, session: ServerConnection) -> None:
        """A request for work came."""
        names = self._names.get(session)
        if names is None:
            names = self._names[session] = set()
            reference = weakref.ref(session)
            session.on_close(lambda _: self._ended(reference()))
        if worker in names or len(names) < NAMES_KEPT:
            names.add(worker)
            self._asking[worker] = session

    def _ended(self, session: ServerConnection | None) -> None:
        if session is None:
            return
        for worker in self._names.pop(session, ()):
            if self._asking.get(worker) is session:
                del self._asking[worker]
                self._left(worker)

    def __contains__(self, worker: object) -> bool:
        session = self._asking.get(worker) if isinstance(worker, str) else None
        return session is not None and not session.is_connected

    def took(self, lease: int, session: ServerConnection) -> None:
        """A lease goes out over a session."""
        self._leases[lease] = weakref.ref(session)
        while len(self._leases) > LEASES_KEPT:
            self._leases.popitem(last=False)

    def unknown(self, leases: Iterable[int]) -> set[int]:
        """Those of the leases that did not go out here."""
        return {lease for lease in leases if lease not in self._leases}

    def held_by_the_living(self, leases: Iterable[int]) -> set[int]:
        """Those that went to a session here which lives."""
        takers = {lease: reference() for lease in leases if (reference := self._leases.get(lease)) is not None}
        return {lease for lease, taker in takers.items() if taker is not None and is_there(taker)}

    def held_elsewhere(self, leases: Iterable[int], session: ServerConnection) -> set[int]:
        """Those of the leases that went to another session, which lives."""
        found = set()
        for lease in leases:
            reference = self._leases.get(lease)
            taker = None if reference is None else reference()
            if taker is not None and lives_elsewhere(taker, session):
                found.add(lease)
        return found


def is_there(session: ServerConnection) -> bool:
    return not session.closed.is_set() and session.is_connected


def lives_elsewhere(other: ServerConnection, session: ServerConnection) -> bool:
    """`other` is another session than this one, and its peer is there."""
    return other is not session and is_there(other)
