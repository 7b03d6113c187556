"""Starts our commands and the official client as real processes, and reads what they print."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore
from tests.parts import databases

HERE = pathlib.Path(__file__).parent
PATIENCE_S = 100.0
"""For what takes a second or two on a machine of its own. Tests say how fast something is to be where they mean it."""
COMMAND = pathlib.Path(sys.executable).parent / "dcp-orchestrator"


class Command:
    """One of our long-running commands. `lines` collects its stdout; `log` names the file with its stderr."""

    def __init__(self, process: asyncio.subprocess.Process, log: pathlib.Path) -> None:
        self.process = process
        self.log = log
        self.lines: list[str] = []

    @classmethod
    async def start(
        cls, *arguments: str, log: pathlib.Path, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Command:
        """`prefix` is a command to run ours under, as `ip netns exec NAME`."""
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *prefix, str(COMMAND), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                env={**os.environ, **await databases.environment(arguments), **(env or {})}, limit=2**24,
            )  # fmt: skip
        return cls(process, log)

    async def wait_for_line(self, prefix: str, *, within: float = PATIENCE_S) -> str:
        """The next line that starts with `prefix`. Raises AssertionError with the log when the command ends first."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
                if line.startswith(prefix):
                    return line.rstrip("\n")
        raise AssertionError(f"ended before it printed {prefix!r}:\n{self.log.read_text()[-4000:]}")

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP for so long: it holds its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def stop(self, *, within: float = PATIENCE_S) -> int:
        """SIGTERM, and wait for the soft shutdown. Returns the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        async with asyncio.timeout(within):
            await self.process.stdout.read()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path, *arguments: str) -> AsyncIterator[Command]:
    """A command with its log in `folder`; it is killed when the block ends before it."""
    command = await Command.start(*arguments, log=folder / f"{arguments[0]}.log")
    try:
        yield command
    finally:
        if command.process.returncode is None:
            await command.kill()


def scheduler(folder: pathlib.Path) -> contextlib.AbstractAsyncContextManager[Command]:
    """A Scheduler on a free port, with credit for everybody."""
    state = str(folder / "scheduler")
    return running(folder, "scheduler", "run", "--port", "0", "--state", state, "--initial-credit", "1000")


def worker(
    folder: pathlib.Path, url: str, *arguments: str, sandboxes: int = 1
) -> contextlib.AbstractAsyncContextManager[Command]:
    state = str(folder / "worker")
    return running(
        folder, "worker", "run", "--scheduler", url, "--state", state, "--sandboxes", str(sandboxes), *arguments
    )


async def url_of(scheduler: Command) -> str:
    """Where it listens, once it does."""
    return (await scheduler.wait_for_line("ready ")).removeprefix("ready ").strip()


@dataclasses.dataclass(frozen=True)
class Couple:
    """A Scheduler that gives new accounts 1000 DCC, and a Worker of its own with one sandbox."""

    scheduler: Command
    worker: Command
    url: str


@contextlib.asynccontextmanager
async def couple(folder: pathlib.Path, *worker_arguments: str) -> AsyncIterator[Couple]:
    """Both with state and logs in `folder`; the Worker may not be ready yet. They are stopped softly when the block
    ends, unless they have ended, and killed when that takes too long."""
    state, log = str(folder / "scheduler"), folder / "scheduler.log"
    async with _running(
        "scheduler", "run", "--port", "0", "--state", state, "--initial-credit", "1000", log=log
    ) as scheduler:
        url = await url_of(scheduler)
        options = ("--scheduler", url, "--state", str(folder / "worker"), "--sandboxes", "1", *worker_arguments)
        async with _running("worker", "run", *options, log=folder / "worker.log") as worker:
            yield Couple(scheduler, worker, url)


@contextlib.asynccontextmanager
async def _running(*arguments: str, log: pathlib.Path) -> AsyncIterator[Command]:
    command = await Command.start(*arguments, log=log)
    try:
        yield command
        await command.stop()
    finally:
        await command.kill()


@dataclasses.dataclass
class ClientRun:
    """What a program of the official client said, in order."""

    status: int
    said: list[tuple[str, Any]]
    stderr: str

    def all(self, name: str) -> list[Any]:
        return [value for said, value in self.said if said == name]

    def one(self, name: str) -> Any:
        values = self.all(name)
        assert len(values) == 1, f"{name!r} was said {len(values)} times: {self.said[-30:]}\n{self.stderr[-3000:]}"
        return values[0]

    def ok(self) -> ClientRun:
        assert self.status == 0, f"client ended with {self.status}: {self.said[-10:]}\n{self.stderr[-3000:]}"
        return self


class Client:
    """The official dcp-client in a process of its own; `say` lines can be awaited while it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[tuple[str, Any]] = []

    async def wait_for(self, name: str, *, count: int = 1, within: float = PATIENCE_S) -> Any:
        """Read on until `name` has been said `count` times in all; the last value."""
        async with asyncio.timeout(within):
            while sum(said == name for said, _ in self.said) < count:
                if not await self._read_line():
                    raise AssertionError(
                        f"client ended before it said {name!r}: {self.said[-10:]}\n{await self._stderr()}"
                    )
        return [value for said, value in self.said if said == name][-1]

    async def finish(self, *, within: float = PATIENCE_S) -> ClientRun:
        async with asyncio.timeout(within):
            while await self._read_line():
                pass
            stderr = await self._stderr()
            return ClientRun(await self.process.wait(), self.said, stderr)

    async def _read_line(self) -> bool:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            return False
        with contextlib.suppress(ValueError):  # the client's own chatter
            name, value = json.loads(line)
            self.said.append((name, value))
        return True

    async def _stderr(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Wallet:
    """A resource directory of the official client, with an identity and a bank account."""

    folder: pathlib.Path

    @classmethod
    async def create(cls, folder: pathlib.Path) -> Wallet:
        for label in ("id", "default"):
            # As `keystore new --empty-passphrase` does it, which takes a second to start.
            keystore = Keystore.encrypt(PrivateKey.generate(), "", label)
            await asyncio.to_thread(files.save, folder / f"{label}.keystore", keystore)
        return cls(folder)


@contextlib.asynccontextmanager
async def client(
    program: str,
    *,
    scheduler: str,
    wallet: Wallet,
    node: pathlib.Path,
    npm_modules: pathlib.Path,
    extra_env: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Run `program` (see client.cjs) with the official client; it is killed when the block ends. `options` are those of
    the process: its working folder, its user."""
    process = await asyncio.create_subprocess_exec(
        str(node), str(HERE / "client.cjs"), str(npm_modules),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=2**26,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(wallet.folder),
            "DCP_RESOURCE_DIR": str(wallet.folder),
            "DCP_SCHEDULER_LOCATION": scheduler,
            "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
            **(extra_env or {}),
        },
        **options,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(program.encode("utf-8"))
    process.stdin.close()
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
