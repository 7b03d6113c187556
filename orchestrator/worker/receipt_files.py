"""Receipts on disk: append-only files of JSON lines in one folder, bounded in bytes and in days.

A file is named by its day (UTC) and a number, `2026-11-25.0001.jsonl`. Every batch is written at once and synced; a
batch that a crash cut off ends in a torn line, which the next start cuts away. All of this blocks: use a thread.
"""

from __future__ import annotations

import os
import pathlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Final

#: In a worker's state folder.
FOLDER: Final = "receipts"
_NAME: Final = re.compile(r"(\d{4}-\d\d-\d\d)\.(\d{4,})\.jsonl")
#: The bound in bytes is kept by removing whole files, so they must be small against it.
_FILES_PER_BOUND: Final = 8
_LEAST_FILE: Final = 64 * 1024
_TAIL: Final = 64 * 1024
_DAY_S: Final = 86_400


def list_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The receipt files of a folder, oldest first. Raises OSError."""
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append((match[1], int(match[2]), path))
    return [path for _day, _number, path in sorted(found)]


class ReceiptFiles:
    """`max_bytes` for all files together, `keep_days` whole days beside today. May be used from several threads."""

    def __init__(self, folder: pathlib.Path, *, max_bytes: int, keep_days: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._keep_days = keep_days
        self._lock = threading.Lock()
        self._day = ""
        self._file: int | None = None
        self._size = 0
        self.written = 0
        """Lines that are surely on disk."""
        self.removed = 0
        """Files removed to keep the bounds."""

    def append(self, lines: Sequence[str], now: float) -> None:
        """Write these lines and sync. Raises OSError; then none, some or all of them are there, whole lines only after
        the next start."""
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._lock:
            file = self._current(time.strftime("%Y-%m-%d", time.gmtime(now)), now)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fdatasync(file)
            self._size += len(data)
            self.written += len(lines)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _current(self, day: str, now: float) -> int:
        full = self._size >= max(self._max_bytes // _FILES_PER_BOUND, _LEAST_FILE)
        if self._file is not None and day == self._day and not full:
            return self._file
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._next_path(day)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._day = day
        self._size = _cut_torn_line(self._file)
        self._sync_folder()
        self._prune(path, now)
        return self._file

    def _next_path(self, day: str) -> pathlib.Path:
        """The day's last file while it has room, else a new one."""
        mine = [path for path in list_files(self.folder) if path.name.startswith(day)]
        if not mine:
            return self.folder / f"{day}.0001.jsonl"
        last = mine[-1]
        if last.stat().st_size < max(self._max_bytes // _FILES_PER_BOUND, _LEAST_FILE):
            return last
        return self.folder / f"{day}.{int(last.name.split('.')[1]) + 1:04d}.jsonl"

    def _prune(self, current: pathlib.Path, now: float) -> None:
        """Remove the oldest files until the rest, and what the current one may grow to, keeps the bounds."""
        first_day = time.strftime("%Y-%m-%d", time.gmtime(now - self._keep_days * _DAY_S))
        others = [path for path in list_files(self.folder) if path != current]
        room = self._max_bytes - max(self._max_bytes // _FILES_PER_BOUND, _LEAST_FILE)
        total = sum(path.stat().st_size for path in others)
        for path in others:
            if path.name[:10] >= first_day and total <= room:
                break
            total -= path.stat().st_size
            path.unlink()
            self.removed += 1

    def _sync_folder(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _cut_torn_line(file: int) -> int:
    """Cut what follows the last line feed; the size that is left."""
    size = os.fstat(file).st_size
    end = size
    while end:
        start = max(end - _TAIL, 0)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(file, end)
    return end
