"""Where the modules that jobs require are to be had."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.protocol.errors import Congested, ConnectionClosed, RemoteError

_TIMEOUT_S: Final = 180.0


class PackageManager:
    """The service at `url`; connected to at the first question, as few jobs have modules."""

    def __init__(self, client: DcpClient, url: str) -> None:
        self._client = client
        self._url = url
        self._connection: ClientConnection | None = None

    async def module_urls(self, modules: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """{package: {file: URL}}.

        Raises `OrchestratorError` ENOMODULE, EMODULETOOBIG, or EMODULEFETCH when it cannot be asked.
        """
        if self._connection is None:
            self._connection = self._client.connect(self._url)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._connection.request("fetchModuleURL", {"modules": list(modules)})
        except TimeoutError:
            raise _error("the package manager does not answer", "EMODULEFETCH") from None
        except (ConnectionClosed, Congested) as error:
            raise _error(f"the package manager cannot be asked: {error.message}", "EMODULEFETCH") from None
        except RemoteError as error:
            answer = {"code": error.code, "message": error.message}
        code = answer.get("code") if isinstance(answer, Mapping) else "ENOENT"
        if isinstance(code, str):
            known = {"ENOENT": "ENOMODULE", "DCPC-1024": "EMODULETOOBIG"}
            raise _error(f"modules {', '.join(modules)[:200]}: {code}", known.get(code, "EMODULEFETCH"))
        return {
            package: {name: url for name, url in files.items() if isinstance(url, str)}
            for package, files in answer.items()
            if isinstance(files, Mapping)
        }


def _error(message: str, code: str) -> OrchestratorError:
    return OrchestratorError(message, code=code, info={"cause": "package-manager"})
