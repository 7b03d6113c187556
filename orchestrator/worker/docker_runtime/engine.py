"""The Engine's API by the `docker` SDK, off the event loop, with a time limit on every call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import docker
import docker.errors
import docker.tls
import requests.exceptions

from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.endpoint import Endpoint, read_head, request_head

#: CgroupnsMode came with this version (Docker 20.10).
API_FLOOR: Final = "1.41"
#: The Engine does about ten container lives a second; more threads only queue there.
_THREADS: Final = 8
#: Limits, and the names by which the Engine's `info` says whether it can enforce them.
_LIMITS: Final = {"memory": "MemoryLimit", "swap": "SwapLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
NEEDED_LIMITS: Final = ("memory", "cpu", "pids")

_Args = ParamSpec("_Args")
_T = TypeVar("_T")


@dataclass(frozen=True)
class EngineInfo:
    """What the Engine says of itself."""

    version: str
    api_version: str
    runtimes: tuple[str, ...]
    default_runtime: str
    cgroup_version: str
    cgroup_driver: str
    security: tuple[str, ...]
    cpus: int
    memory_bytes: int
    runtime_paths: Mapping[str, str] = field(default_factory=dict)
    """The program of each runtime, where the Engine tells it."""
    runtime_arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Mapping[str, bool] = field(default_factory=dict)
    """Of memory, swap, cpu and pids: whether the Engine can enforce it."""


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


class Engine:
    """SDK calls as coroutines. `connect` before anything else; `close` in the end."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._api: Any = None

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    async def connect(self) -> EngineInfo:
        """Check the Engine: reachable, permitted, recent enough. Raises RuntimeUnavailable."""
        # First by hand: this says exactly what is wrong, and the SDK leaks a socket when it cannot connect.
        _, writer = await self.endpoint.open(self._timeout_s)
        writer.transport.abort()
        if self._api is None:
            self._api = await self._in_thread("connect", self._make_client)
        version = await self.call("version", self._api.version)
        info = await self.call("info", self._api.info)
        api_version = str(version.get("ApiVersion", "0"))
        if version_tuple(api_version) < version_tuple(API_FLOOR):
            raise failures.too_old(str(version.get("Version")), api_version, API_FLOOR)
        return parse_info(version, info)

    def _make_client(self) -> Any:
        endpoint = self.endpoint
        base_url = (
            f"http+unix://{endpoint.socket}"
            if endpoint.socket is not None
            else f"tcp://{endpoint.host}:{endpoint.port}"
        )
        tls: Any = False
        if endpoint.certificates is not None:
            folder = endpoint.certificates
            tls = docker.tls.TLSConfig(
                client_cert=(str(folder / "cert.pem"), str(folder / "key.pem"))
                if (folder / "key.pem").exists()
                else None,
                ca_cert=str(folder / "ca.pem") if endpoint.verify else None,
                verify=endpoint.verify,
            )
        # The version is pinned to the floor: the same requests whatever the Engine, and no negotiation on connect.
        return docker.APIClient(
            base_url=base_url, version=API_FLOOR, timeout=self._timeout_s, tls=tls, num_pools=_THREADS
        )

    @property
    def api(self) -> Any:
        """The SDK's client; its methods are for `call`. Raises RuntimeUnavailable before `connect`."""
        if self._api is None:
            raise failures.gone("not connected yet")
        return self._api

    async def answers(self) -> None:
        """Return as soon as the Engine says a word. Raises RuntimeUnavailable when it is away or silent."""
        reader, writer = await self.endpoint.open(self._timeout_s)
        try:
            writer.write(request_head("GET", "/_ping"))
            async with asyncio.timeout(self._timeout_s):
                await read_head(reader)
        except TimeoutError as exc:
            raise failures.silent("ping", self._timeout_s) from exc
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as exc:
            raise failures.gone(f"ping: {exc}") from exc
        finally:
            writer.transport.abort()

    async def call(
        self, operation: str, function: Callable[_Args, _T], *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _T:
        """One SDK call in a thread.

        Raises RuntimeUnavailable (Engine away or silent), ContainerGone (404), ContainerRefused (any other refusal).
        Cancelling stops waiting; the request itself may still take effect, which is what the labels are for.
        """
        return await self._in_thread(operation, function, *args, **kwargs)

    async def _in_thread(
        self, operation: str, function: Callable[_Args, _T], *args: _Args.args, **kwargs: _Args.kwargs
    ) -> _T:
        loop = asyncio.get_running_loop()
        # The SDK's own limit frees the thread; ours, a little longer, covers waiting for a thread.
        limit = 2 * self._timeout_s + 1
        try:
            async with asyncio.timeout(limit):
                return await loop.run_in_executor(self._threads, functools.partial(function, *args, **kwargs))
        except TimeoutError as exc:
            raise failures.silent(operation, limit) from exc
        except Exception as exc:
            raise self._translate(operation, exc) from exc

    def _translate(self, operation: str, exc: Exception) -> Exception:
        asks_who = operation in ("connect", "version", "info", "ping")
        if isinstance(exc, docker.errors.NotFound) and not asks_who:
            return failures.ContainerGone(f"{operation}: {exc.explanation}")
        if isinstance(exc, docker.errors.APIError):
            status = exc.response.status_code if exc.response is not None else 0
            text = " ".join(str(exc.explanation or exc).split())[:300]
            if asks_who:
                return failures.refusing(f"{operation}: {text}")
            return failures.ContainerRefused(f"{operation} was refused ({status}): {text}", info={"status": status})
        if isinstance(exc, requests.exceptions.Timeout):
            return failures.silent(operation, self._timeout_s)
        if isinstance(exc, (requests.exceptions.RequestException, docker.errors.DockerException, OSError)):
            return self._unreachable(exc)
        return exc

    def _unreachable(self, exc: BaseException) -> failures.RuntimeUnavailable:
        """requests wraps the socket's error several times; the innermost says what it was."""
        text = str(exc)
        if "Permission denied" in text or "PermissionError" in text:
            return failures.forbidden(self.endpoint.address)
        if any(
            word in text
            for word in ("FileNotFoundError", "Connection refused", "ConnectionRefusedError", "No such file")
        ):
            return failures.missing(self.endpoint.address)
        return failures.gone(text[:300])

    def close(self) -> None:
        """Drop what waits for a thread and close the SDK's connections. Does not wait for calls under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._api is not None:
            self._api.close()


def endpoint_from_environment(address: str | None) -> Endpoint:
    return Endpoint.parse(os.environ, address)


def parse_info(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineInfo:
    return EngineInfo(
        version=str(version.get("Version")),
        api_version=str(version.get("ApiVersion")),
        runtimes=tuple(info.get("Runtimes") or ()),
        default_runtime=str(info.get("DefaultRuntime", "")),
        cgroup_version=str(info.get("CgroupVersion", "1")),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        security=tuple(info.get("SecurityOptions") or ()),
        cpus=int(info.get("NCPU", 0)),
        memory_bytes=int(info.get("MemTotal", 0)),
        limits={name: bool(info.get(word)) for name, word in _LIMITS.items()},
        runtime_paths={
            str(name): str((one or {}).get("path") or "") for name, one in (info.get("Runtimes") or {}).items()
        },
        runtime_arguments={
            str(name): tuple((one or {}).get("runtimeArgs") or ()) for name, one in (info.get("Runtimes") or {}).items()
        },
    )
