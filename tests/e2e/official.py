"""Starts the unmodified official workers with their Node evaluators, as processes of their own.

The evaluator refuses to be root, so everything here runs as nobody when the tests are root.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal, Self

from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.faults.parts import free_port

UNPRIVILEGED: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}


@contextlib.contextmanager
def folder_of_nobody() -> Iterator[pathlib.Path]:
    """A folder that the unprivileged processes own; pytest's own folders are closed to them."""
    with tempfile.TemporaryDirectory(prefix="dcp-official-", ignore_cleanup_errors=True) as name:
        path = pathlib.Path(name)
        give_to_nobody(path)
        yield path


def give_to_nobody(path: pathlib.Path) -> None:
    if UNPRIVILEGED:
        for one in (path, *path.rglob("*")):
            os.chown(one, UNPRIVILEGED["user"], UNPRIVILEGED["group"])


@dataclasses.dataclass(frozen=True)
class Packages:
    """Where Node and the packages are."""

    node: pathlib.Path
    npm_modules: pathlib.Path

    def client(self, generation: Literal[4, 5]) -> pathlib.Path:
        """dcp-client 5.6.1, or the 4.4.29 that dcp-worker brings with it."""
        if generation == 5:
            return self.npm_modules / "dcp-client"
        return self.npm_modules / "dcp-worker" / "node_modules" / "dcp-client"

    def sandbox_files(self, generation: Literal[4, 5]) -> list[str]:
        """What the package itself lists for its Node evaluator, in order."""
        client = self.client(generation)
        names = json.loads((client / "generated" / "sandbox-definitions.json").read_text())["node"]
        return [str(self._sandbox_file(client, name)) for name in names]

    def _sandbox_file(self, client: pathlib.Path, name: str) -> pathlib.Path:
        if "/" not in name:
            return client / "libexec" / "sandbox" / (name if name.endswith(".js") else f"{name}.js")
        nested = client.parent / name
        return nested if nested.exists() else self.npm_modules / name


class Process:
    """An official program; what it says goes to `log`."""

    def __init__(self, process: asyncio.subprocess.Process, log: pathlib.Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, *command: str, log: pathlib.Path, env: dict[str, str]) -> Self:
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=asyncio.subprocess.STDOUT, env=env,
                cwd=log.parent, **UNPRIVILEGED,
            )  # fmt: skip
        return cls(process, log)

    async def wait_for_log(self, text: str, *, within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while text not in self.log.read_text(errors="replace"):
                assert self.process.returncode is None, f"ended before it said {text!r}: {self.said()}"
                await asyncio.sleep(0.05)  # a log file announces itself in no other way

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    async def stop(self, *, within: float = 90.0) -> int:
        """SIGTERM: slices in work are finished, the others go back. The exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def evaluator(
    packages: Packages, generation: Literal[4, 5], folder: pathlib.Path
) -> AsyncIterator[tuple[int, Process]]:
    """The package's Node evaluator, one process per sandbox: the loopback port where it listens, and its own process."""
    port = free_port()
    program = packages.client(generation) / "libexec" / "evaluator-node.js"
    process = await Process.start(
        str(packages.node), str(program), "--port", str(port), "--listen", "127.0.0.1",
        *packages.sandbox_files(generation),
        log=folder / f"evaluator-{generation}.log", env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    try:
        await process.wait_for_log("Listening for connections")
        yield port, process
    finally:
        # Its children end with their sockets.
        await process.stop(within=10)


class OfficialWorker:
    """One official worker of either generation, that can be started again under its old name."""

    def __init__(
        self,
        packages: Packages,
        generation: Literal[4, 5],
        *,
        scheduler: str,
        folder: pathlib.Path,
        evaluator_port: int,
        payee: str,
        cores: int = 1,
        options: Sequence[str] = (),
    ) -> None:
        """`options` are further ones of dcp-worker's command line."""
        self.packages = packages
        self.generation = generation
        self.scheduler = scheduler
        self.folder = folder
        self.evaluator_port = evaluator_port
        self.payee = payee
        self.cores = cores
        self.options = options
        self.identity = PrivateKey.generate()
        self.process: Process | None = None

    def _command(self) -> Sequence[str]:
        modules = self.packages.npm_modules
        key = self.identity.to_hex()
        if self.generation == 5:
            options = {
                "identity": key, "paymentAddress": self.payee, "cores": self.cores, "sandboxes": self.cores,
                "port": self.evaluator_port,
            }  # fmt: skip
            return (str(harness.HERE / "distributive_worker.cjs"), str(modules), json.dumps(options))
        return (
            str(modules / "dcp-worker" / "bin" / "dcp-worker"), "--output", "console", "-v", "-v",
            "--hostname", "127.0.0.1", "--port", str(self.evaluator_port), "--paymentAddress", self.payee,
            "--identityKey", key, "--cores", f"{self.cores},0", "--maxSandboxes", str(self.cores), *self.options,
        )  # fmt: skip

    async def start(self) -> Process:
        """Start it; it asks for work soon after. Its id is kept in `folder`."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DCP_SCHEDULER_LOCATION": self.scheduler,
            "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
        }
        log = self.folder / f"worker-{self.generation}.log"
        self.process = await Process.start(str(self.packages.node), *self._command(), log=log, env=env)
        return self.process

    async def stop(self) -> int:
        assert self.process is not None
        return await self.process.stop()


@contextlib.asynccontextmanager
async def official_worker(
    packages: Packages,
    generation: Literal[4, 5],
    *,
    scheduler: str,
    payee: str,
    cores: int = 1,
    options: Sequence[str] = (),
) -> AsyncIterator[OfficialWorker]:
    """A worker with an evaluator of its own, running; both are gone when the block ends."""
    with folder_of_nobody() as folder:
        async with evaluator(packages, generation, folder) as (port, _):
            worker = OfficialWorker(
                packages, generation, scheduler=scheduler, folder=folder, evaluator_port=port, payee=payee, cores=cores,
                options=options,
            )  # fmt: skip
            process = await worker.start()
            try:
                yield worker
            finally:
                await (worker.process or process).kill()


def copy_of_wallet(wallet: harness.Wallet, folder: pathlib.Path) -> harness.Wallet:
    """The same keys, readable for nobody."""
    target = folder / "dcp"
    shutil.copytree(wallet.folder, target)
    give_to_nobody(target)
    return harness.Wallet(target)
