"""Where a worker's control socket lies, who may have it, and how to reach it when its path is long.

The kernel takes 107 bytes of path for a Unix socket. A longer one is reached through a descriptor of its folder
(`/proc/self/fd/N/control.sock`), so the socket lies in the state folder in any case.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from orchestrator.errors import InvalidInput, NotPermitted

SOCKET: Final = "control.sock"
LOCK: Final = "worker.lock"
LONGEST_PATH: Final = 107
_BACKLOG: Final = 32


class StateInUse(NotPermitted):
    """Another process works with this state folder: both would answer for the same worker id."""

    code = "EINUSE"


class StateLock:
    """`with` it: this process is the only worker of the state folder until the block, or the process, ends.

    Raises `StateInUse` naming the other process, `InvalidInput` when the folder cannot be used.
    """

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._folder = state_dir
        self._file = -1

    def __enter__(self) -> Self:
        path = self._folder / LOCK
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise InvalidInput(f"the state folder {self._folder} cannot be used: {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            who = f"process {other}" if other.isdigit() else "another process"
            raise StateInUse(
                f"a worker runs on the state folder {self._folder} already ({who}): stop it "
                f"(`dcp-orchestrator worker drain --state {self._folder}`), or give this one another --state"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.ftruncate(self._file, 0)  # the file stays: removing it would let two workers lock two files
        os.close(self._file)


@contextlib.contextmanager
def short_path(path: pathlib.Path) -> Iterator[str]:
    """A path to `path` that a socket call takes; good until the block ends. Raises OSError when its folder is missing,
    `InvalidInput` when it is too long on a system without /proc."""
    full = os.path.abspath(path)  # noqa: PTH100  (resolve() would follow links, and asks the disk)
    if len(os.fsencode(full)) <= LONGEST_PATH:
        yield full
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        by_descriptor = pathlib.Path(f"/proc/self/fd/{folder}")
        if not by_descriptor.exists():
            raise InvalidInput(
                f"the path of the control socket {full} has more than {LONGEST_PATH} bytes: give a shorter --state"
            )
        yield str(by_descriptor / path.name)
    finally:
        os.close(folder)


@contextlib.contextmanager
def listening(path: pathlib.Path) -> Iterator[socket.socket]:
    """A listening socket at `path` that only this user may connect to; it is removed when the block ends.

    What lay there before is replaced: hold the `StateLock`. Raises `InvalidInput`.
    """
    _refuse_open_folder(path.parent)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.setblocking(False)
        os.fchmod(sock.fileno(), 0o600)  # before it has a name, so that nobody else can be faster
        try:
            path.unlink(missing_ok=True)
            with short_path(path) as short:
                sock.bind(short)
            path.chmod(0o600)
            sock.listen(_BACKLOG)
            ours = path.stat().st_ino
        except OSError as error:
            raise InvalidInput(
                f"the control socket {path} cannot be made: {error.strerror}; the state folder (--state) must be on a "
                "file system that takes sockets"
            ) from None
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _refuse_open_folder(folder: pathlib.Path) -> None:
    """Whoever may write there could put a socket of his own in the place of ours."""
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise InvalidInput(f"the state folder {folder} cannot be used: {error.strerror}") from None
    # A group may have been given the folder on purpose, as Kubernetes does with volumes.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise InvalidInput(f"every user may write into the state folder {folder}: chmod o-w {folder}")
