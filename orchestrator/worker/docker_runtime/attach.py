"""The data channel of a sandbox: Docker's attach connection, hijacked, on the event loop.

One connection per container, opened before the container starts so that no byte is lost. It never drops bytes: when we
stop reading, the guest's write blocks. But while we hold the connection and do not read, `kill`, `wait` and `rm` of
that container hang (observed with Docker 20.10), so the rule is: `abort()` first, kill second.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.endpoint import Endpoint, parse_head, request_head
from orchestrator.worker.docker_runtime.frames import FrameError, FrameParser

_HEAD_LIMIT = 64 * 1024


class Receiver(Protocol):
    """Who gets what the container writes. Called on the event loop; must not block, may abort the stream."""

    def output(self, stream: int, data: bytes, frames: int) -> None:
        """Bytes from stdout (1) or stderr (2); `frames` writes of the guest were seen since the last call."""

    def ended(self) -> None:
        """The connection ended from the other side: the container exited, or the daemon went away. Called once."""


class AttachStream(asyncio.Protocol):
    """An attached container's standard streams. Made by `attach`."""

    def __init__(self, receiver: Receiver, request: bytes) -> None:
        self._receiver = receiver
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._parser = FrameParser()
        self._frames_told = 0
        self._aborted = False
        self._pending: list[bytes] = []
        self._flush_planned = False
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever gave up while the connection was being made does not ask what became of it.
        self.upgraded.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.bytes_in = 0
        self.bytes_out = 0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._aborted:
            return
        if not self.upgraded.done():
            data = self._read_head(data)
            if not data:
                return
        self.bytes_out += len(data)
        try:
            pieces = self._parser.feed(data)
        except FrameError:
            # Not Docker's stream any more; nothing that follows could be trusted.
            self.abort()
            self._receiver.ended()
            return
        frames, self._frames_told = self._parser.frames - self._frames_told, self._parser.frames
        for stream, piece in pieces:
            self._receiver.output(stream, piece, frames)
            frames = 0
            if self.closed:
                return

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.upgraded.done():
            self.upgraded.set_exception(failures.gone(str(exc or "") or "attach was cut off"))
        elif not self._aborted:
            self._aborted = True
            self._receiver.ended()

    def _read_head(self, data: bytes) -> bytes:
        """Collect the HTTP answer; what follows it, once it is complete."""
        self._head += data
        head, separator, rest = self._head.partition(b"\r\n\r\n")
        if not separator:
            if len(self._head) > _HEAD_LIMIT:
                self.upgraded.set_exception(failures.refusing("attach answered with an endless header"))
                self.abort()
            return b""
        self._head = b""
        try:
            status = parse_head(head).status
        except ValueError as exc:
            self.upgraded.set_exception(failures.refusing(str(exc)))
            self.abort()
            return b""
        if status not in (101, 200):
            detail = f"attach answered {status}: {rest[:300].decode('utf-8', 'replace').strip()}"
            self.upgraded.set_exception(failures.ContainerRefused(detail))
            self.abort()
            return b""
        self.upgraded.set_result(None)
        return rest

    # -- ours

    def write(self, line: bytes) -> None:
        """Queue bytes for the container's stdin; what is queued in one turn of the loop goes out in one write.

        Never blocks. A container that does not read leaves them in `unsent()`.
        """
        if self._aborted or self._transport is None:
            return
        self.bytes_in += len(line)
        self._pending.append(line)
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        pending, self._pending = self._pending, []
        if pending and not self._aborted and self._transport is not None:
            self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))

    @property
    def closed(self) -> bool:
        return self._aborted

    def unsent(self) -> int:
        """Bytes waiting here for the container to read."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def pause(self) -> None:
        """Stop reading, so that the guest's writes block. Resume or abort soon: see the module's rule."""
        if self._transport is not None and not self._aborted and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._aborted and not self._transport.is_reading():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once, dropping what is queued. Idempotent; `ended` is not called after it."""
        self._aborted = True
        self._pending.clear()
        if self._transport is not None:
            self._transport.abort()


async def attach(
    endpoint: Endpoint, api_version: str, container_id: str, receiver: Receiver, timeout_s: float
) -> AttachStream:
    """Attach to a created container. Raises RuntimeUnavailable or ContainerRefused; closes what it opened."""
    path = f"/v{api_version}/containers/{container_id}/attach?stream=1&stdin=1&stdout=1&stderr=1"
    request = request_head("POST", path, upgrade=True)
    _, stream = await endpoint.connect(lambda: AttachStream(receiver, request), timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await stream.upgraded
    except TimeoutError as exc:
        stream.abort()
        raise failures.silent("attach", timeout_s) from exc
    except BaseException:
        stream.abort()
        raise
    return stream
