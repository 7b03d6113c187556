"""Big values outside the rows: code, arguments, inputs and results beyond a size lie in a folder or an S3-compatible
store.

A value is named by its job and the hash of its content. The row holds a mark with that hash instead of the value, which
can only be read for the same job: whatever somebody sends as a value, nobody reads another job's values with it. When
the rows of a job are dropped, nothing refers to its values any more, and they go too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from typing import Protocol

from orchestrator.errors import OrchestratorError

log = logging.getLogger(__name__)

MARK = "dcp-blob:"
"""what stands in a row: the mark, the SHA-256 and the length of the value"""
AT_ONCE = 16
"""values on their way to or from the store, per request"""


def size_of(uri: str) -> int:
    """Characters of a value that is in a row, or whose mark is."""
    length = uri.rpartition(":")[2] if uri.startswith(MARK) else ""
    return int(length) if length.isascii() and length.isdigit() else len(uri)


class BlobStore(Protocol):
    """Bytes by `job/hash`. Raise OSError (or a subclass) when the store does not do what it should."""

    async def put(self, job: str, name: str, data: bytes) -> None: ...

    async def get(self, job: str, name: str) -> bytes | None: ...

    async def drop(self, job: str) -> None:
        """Everything of a job."""

    async def close(self) -> None: ...


class BlobAway(OrchestratorError):
    """A value cannot be stored or fetched at the moment, or is not there any more."""

    code = "EBLOB"
    retryable = True


class DiskBlobs:
    """A folder. A value is whole or not there, also after a crash."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    async def put(self, job: str, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, self._folder / job, name, data)

    def _put(self, folder: pathlib.Path, name: str, data: bytes) -> None:
        path = folder / name
        if path.exists():
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f".{name}.{secrets.token_hex(4)}"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # the row that names it will survive a power cut
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    async def get(self, job: str, name: str) -> bytes | None:
        try:
            return await asyncio.to_thread((self._folder / job / name).read_bytes)
        except FileNotFoundError:
            return None

    async def drop(self, job: str) -> None:
        folder = self._folder / job
        if await asyncio.to_thread(folder.exists):
            await asyncio.to_thread(shutil.rmtree, folder)

    async def close(self) -> None:
        """Nothing is open."""


class Blobs:
    """`stash` before the rows are written, `resolve` after they were read. Without a store all values stay in rows."""

    def __init__(self, store: BlobStore | None, threshold: int) -> None:
        self._store = store
        self._threshold = threshold
        self._turns = asyncio.Semaphore(AT_ONCE)

    def is_big(self, uri: str) -> bool:
        """Whether `stash` puts it aside. What looks like a mark always is: then every mark in a row is ours."""
        return self._store is not None and (len(uri) >= self._threshold or uri.startswith(MARK))

    async def stash(self, job: str, uris: Sequence[str]) -> list[str]:
        """The same values, the big ones replaced by marks. Raises `BlobAway`."""
        return list(await asyncio.gather(*(self._stash(job, uri) for uri in uris)))

    async def _stash(self, job: str, uri: str) -> str:
        if self._store is None or not self.is_big(uri):
            return uri
        data = uri.encode()
        name = await asyncio.to_thread(_name, data)
        try:
            async with self._turns:
                await self._store.put(job, name, data)
        except OSError as error:
            log.warning("a value cannot be stored: %s", error, extra={"action": "blob-away"})
            raise BlobAway("a value cannot be stored at the moment; send it again in a while") from error
        return f"{MARK}{name}:{len(uri)}"

    @property
    def is_on(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    async def resolve(self, job: str, uri: str, what: str = "a value") -> str:
        """The value itself; `what` says in errors which. Raises `BlobAway`."""
        if self._store is None or not uri.startswith(MARK):
            return uri
        name = uri.removeprefix(MARK).partition(":")[0]
        try:
            async with self._turns:
                data = await self._store.get(job, name)
        except OSError as error:
            log.warning("%s of job %s cannot be fetched: %s", what, job, error, extra={"action": "blob-away"})
            raise BlobAway(
                f"{what} of job {job} (SHA-256 {name}) cannot be fetched at the moment; try again in a while"
            ) from error
        if data is None or await asyncio.to_thread(_name, data) != name:
            problem = "is not in the store any more" if data is None else "was changed in the store"
            log.error("%s of job %s %s: %s", what, job, problem, name, extra={"action": "blob-missing"})
            raise BlobAway(f"{what} of job {job} (SHA-256 {name}) {problem}", retryable=False)
        return data.decode()

    async def drop(self, job: str) -> None:
        """The rows of the job are gone. Raises OSError."""
        if self._store is not None:
            await self._store.drop(job)

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
