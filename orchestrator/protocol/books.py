"""What a server and its sessions share: which sessions there are, whose they are, and what all of them may use."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.protocol.framing import FramingLimits
from orchestrator.protocol.guard import Guard, GuardLimits
from orchestrator.protocol.session_memory import Memory
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import Breach, SessionLimits, State
from orchestrator.wallet import keys

if TYPE_CHECKING:
    from orchestrator.protocol.server_link import ServerLink

__all__ = ["Books", "ServerLimits"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerLimits:
    """What all peers together may make the server hold; times in seconds."""

    session: SessionLimits = field(default_factory=SessionLimits)
    framing: FramingLimits = field(default_factory=FramingLimits)
    guard: GuardLimits = field(default_factory=GuardLimits)
    sessions: int = 20_000
    sockets: int = 40_000
    # Before it has named its session a socket may send little, and not for long.
    greeting: FramingLimits = field(default_factory=lambda: FramingLimits(message=65_536, partial=1, fragments=8))
    greeting_timeout: float = 30
    # Packets that a peer leaves unread before its socket is dropped; more than the longest message has fragments.
    unread_packets: int = 10_000
    unread_characters: int = 256 * 1024 * 1024
    sweep_interval: float = 2
    # How long a client whose session an earlier process has left must be silent before that session is closed.
    heir_quiet: float = 0.3


class Absent:
    """Sessions without a transport, by the address where they had one. The first to make room is the one that has been
    there for the longest time, of an address that has the most; to find it takes as long among many addresses."""

    def __init__(self) -> None:
        self._by_place: dict[str, dict[ServerLink, None]] = {}
        self._place_of: dict[ServerLink, str] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        """places that have so many"""
        self._most = 0

    def __contains__(self, link: ServerLink) -> bool:
        return link in self._place_of

    def add(self, link: ServerLink) -> None:
        place = self._place_of[link] = link.place
        there = self._by_place.setdefault(place, {})
        there[link] = None
        self._count(place, len(there) - 1, len(there))

    def discard(self, link: ServerLink) -> None:
        place = self._place_of.pop(link, None)
        if place is not None:
            there = self._by_place[place]
            del there[link]
            self._count(place, len(there) + 1, len(there))
            if not there:
                del self._by_place[place]

    def first(self) -> ServerLink | None:
        if not self._most:
            return None
        crowd = next(iter(self._by_count[self._most]))
        return next(iter(self._by_place[crowd]))

    def _count(self, place: str, before: int, now: int) -> None:
        if before:
            del self._by_count[before][place]
            if not self._by_count[before]:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, {})[place] = None
        # It moves by one, and so does the most of all.
        if now > self._most or self._most not in self._by_count:
            self._most = now


class Books:
    """A session is unready until it has a dcpsid, then listed; counted for its peer once it is established."""

    def __init__(
        self, identity: keys.PrivateKey, limits: ServerLimits, memory: Memory, clock: Callable[[], float]
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.memory = memory
        self.clock = clock
        self.guard = Guard(limits.guard, time.monotonic())
        self.stamps = Stamps()
        self.links: dict[str, ServerLink] = {}
        self.unready: set[ServerLink] = set()
        self.by_peer: Counter[str] = Counter()
        self._strangers = Absent()
        self._resumable = Absent()
        self.refused = 0
        self.sessions_elsewhere: Callable[[str], int] = lambda _identity: 0
        """how many sessions an identity has at other processes"""

    @property
    def is_full(self) -> bool:
        return len(self.links) + len(self.unready) >= self.limits.sessions

    def begun(self, link: ServerLink) -> None:
        self.unready.add(link)

    def known(self, link: ServerLink, dcpsid: str) -> None:
        """It has a dcpsid now."""
        self.unready.discard(link)
        self.links[dcpsid] = link

    def established(self, peer: str) -> None:
        self.by_peer[peer] += 1

    def ended(self, link: ServerLink, dcpsid: str | None, peer: str | None) -> None:
        """`peer` is None when it was never established."""
        self.unready.discard(link)
        self.links.pop(dcpsid or "", None)
        if peer is not None:
            self.by_peer[peer] -= 1
            if self.by_peer[peer] <= 0:
                del self.by_peer[peer]
        self.memory.forget(dcpsid or "")

    def offended(self, identity: str, what: str) -> None:
        """An identity has signed, in an established session, what no honest peer signs."""
        log.info("%s breaks the protocol: %s", identity, what, extra={"action": "offence"})
        if self.guard.offend(identity, what, time.monotonic()):
            ban_s = self.limits.guard.identity_ban_s
            log.warning(
                "identity %s is banned for %g s: too many offences, the last: %s", identity, ban_s, what,
                extra={"action": "banned"},
            )  # fmt: skip
            self.expel(identity, f"too many offences, the last: {what}")

    def expel(self, identity: str, reason: str) -> None:
        """End all sessions of an identity that is banned."""
        for link in [one for one in self.links.values() if one.session.peer == identity]:
            link.feed(Breach(ConnectionClosed(f"identity {identity} is banned ({reason})", code="EPERM")))

    def note_presence(self, link: ServerLink) -> None:
        """Its transport, or its state, may have changed."""
        session = link.session
        absent = self._strangers if session.state is State.CONNECTING else self._resumable
        if session.is_closed or link.transport is not None:
            self._strangers.discard(link)
            self._resumable.discard(link)
        elif link not in absent:
            absent.add(link)

    def evict(self) -> bool:
        """Make room: end the session that has been without a transport for the longest time at the address that has the
        most of them; those that were never established first."""
        oldest = self._strangers.first() or self._resumable.first()
        if oldest is None:
            return False
        oldest.feed(Breach(ConnectionClosed("the place was needed for another session", code="ETIMEDOUT")))
        return True
