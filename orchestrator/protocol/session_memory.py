"""What a server must still know of its sessions after it was killed: the last ack that it gave in each.

A client that comes back repeats what was not acked only when it hears that ack again, and dcp-client 5.6.1 ends its
whole process when a session is closed while its answers wait for acks. So the last ack of every session is kept in a
file, one slot each, written without waiting for the disk: the page cache outlives the process, and a machine that
loses power has lost its clients' connections in any case.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.protocol.vocabulary import IncomingRequest

__all__ = ["Memory", "Remembered", "SessionMemory"]

_SLOT = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Remembered:
    """One session as it was last seen. `token`, `message_id` and `nonce` are those of the last ack."""

    dcpsid: str
    service: str
    peer: str
    token: str
    message_id: str
    nonce: str


class Memory(Protocol):
    """Where a server keeps the last ack of each session.

    `recall` answers at once from what is at hand. A memory that is shared with other processes is asked with `seek`
    first, for a session that is not at hand; and `settle` is awaited before an ack leaves, unless `is_settled`.
    """

    is_shared: bool

    def recall(self, dcpsid: str) -> Remembered | None: ...

    def remember(self, session: Remembered) -> None: ...

    def forget(self, dcpsid: str) -> None: ...

    async def seek(self, dcpsid: str, service: str, peer: str) -> None: ...

    @property
    def is_settled(self) -> bool: ...

    async def settle(self) -> None: ...

    async def claim(self, dcpsid: str, requests: Sequence[IncomingRequest]) -> frozenset[str]:
        """Ids of those requests whose stamp another request has used, here or at another process. Raises
        `OrchestratorError` when that cannot be known at the moment."""


class SessionMemory:
    """A file of slots. Without a path nothing is kept.

    `recall` answers from what an earlier process has left, as long as it is younger than `patience` seconds. Raises
    OSError when the file cannot be opened.
    """

    def __init__(
        self, path: pathlib.Path | None = None, *, patience: float = 7300.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._left: dict[str, Remembered] = {}
        self._end = 0
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._read(clock() - patience)

    def _read(self, oldest: float) -> None:
        assert self._file is not None
        self._end = (os.fstat(self._file).st_size + _SLOT - 1) // _SLOT
        for slot in range(self._end):
            try:
                at, *fields = json.loads(os.pread(self._file, _SLOT, slot * _SLOT))
                remembered = Remembered(*fields)
            except (ValueError, TypeError):
                self._free.append(slot)
                continue
            if at < oldest:
                self._free.append(slot)
                continue
            self._slots[remembered.dcpsid] = slot
            self._left[remembered.dcpsid] = remembered

    is_shared = False
    is_settled = True

    async def seek(self, dcpsid: str, service: str, peer: str) -> None:
        """Nothing: all that there is, `recall` knows."""

    async def settle(self) -> None:
        """Nothing: `remember` has written it."""

    async def claim(self, dcpsid: str, requests: Sequence[IncomingRequest]) -> frozenset[str]:
        """None: sessions have looked for themselves."""
        return frozenset()

    def recall(self, dcpsid: str) -> Remembered | None:
        return self._left.get(dcpsid)

    def remember(self, session: Remembered) -> None:
        """Call before the ack leaves: an ack that the peer has and we do not know of would break the session."""
        if self._file is None:
            return
        fields = (session.dcpsid, session.service, session.peer, session.token, session.message_id, session.nonce)
        text = json.dumps([round(self._clock()), *fields]).encode()
        slot = self._slots.get(session.dcpsid)
        if len(text) > _SLOT:
            # Tokens of such a length come from no known client; without a slot the session ends with the process.
            self.forget(session.dcpsid)
            return
        if slot is None:
            slot = self._free.pop() if self._free else self._end
            self._end = max(self._end, slot + 1)
            self._slots[session.dcpsid] = slot
        os.pwrite(self._file, text.ljust(_SLOT), slot * _SLOT)

    def forget(self, dcpsid: str) -> None:
        """The session is over."""
        self._left.pop(dcpsid, None)
        slot = self._slots.pop(dcpsid, None)
        if slot is not None and self._file is not None:
            os.pwrite(self._file, b" " * _SLOT, slot * _SLOT)
            self._free.append(slot)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __len__(self) -> int:
        return len(self._slots)
