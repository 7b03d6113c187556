"""The command-line tools of the official packages and ours, as processes, on one wallet and one Scheduler."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
from typing import Any

from orchestrator.wallet import files
from tests.e2e import harness

BANK_UTILITY = pathlib.Path("dcp-util/bin/bank-utility")
CG_UTILITY = pathlib.Path("dcp-util/bin/cg-utility")
JOB_UTILITY = pathlib.Path("dcp-util/bin/job-utility")
DCP_BANK = pathlib.Path("dcp-client/bin/dcp-bank")


@dataclasses.dataclass(frozen=True)
class Tools:
    """The wallet's `default` account starts with 1000 DCC."""

    node: pathlib.Path
    modules: pathlib.Path
    wallet: harness.Wallet
    url: str

    def address(self, name: str) -> str:
        """Of one of the wallet's keystores: `id`, `default`, `other`."""
        address = files.load(self.wallet.folder / f"{name}.keystore").address
        assert address is not None
        return address

    async def run(self, tool: pathlib.Path, *arguments: str) -> tuple[int, str]:
        """Exit status, and everything that an official tool printed."""
        return await self._run(str(self.node), str(self.modules / tool), *arguments)

    async def json(self, tool: pathlib.Path, *arguments: str) -> Any:
        """What an official tool prints with `--json`."""
        status, said = await self.run(tool, *arguments, "--json")
        assert status == 0, said
        return json.loads(said)

    async def ours(self, *arguments: str) -> tuple[int, str]:
        return await self._run(str(harness.COMMAND), *arguments)

    async def _run(self, *command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.wallet.folder),
                "DCP_RESOURCE_DIR": str(self.wallet.folder),
                "DCP_SCHEDULER_LOCATION": self.url,
                "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
            },
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, said.decode()
