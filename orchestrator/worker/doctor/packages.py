"""Which package of the distribution owns a program, and which CVEs its changelog says are mended."""

from __future__ import annotations

import asyncio
import gzip
import os
import pathlib
import re
import shutil
from typing import Final

from orchestrator.worker.doctor.advisories import Package

_CVE: Final = re.compile(r"CVE-\d{4}-\d{4,}")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S: Final = 10.0


async def owner_of(program: str) -> Package | None:
    """None when no package manager that we know owns it, or answers in time."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if path is None:
        return None
    path = os.path.realpath(path)  # noqa: ASYNC240  (two links on a local disk)
    if shutil.which("dpkg-query") is not None:
        return await _debian(path)
    if shutil.which("rpm") is not None:
        return await _rpm(path)
    return None


async def _debian(path: str) -> Package | None:
    owner = await _output("dpkg-query", "--search", path)
    if owner is None and path.startswith("/usr/"):  # a merged /usr: the package says /bin or /sbin
        owner = await _output("dpkg-query", "--search", path.removeprefix("/usr"))
    if owner is None:
        return None
    name = owner.split(":", 1)[0].split(",", 1)[0].strip()
    version = await _output("dpkg-query", "--show", "--showformat=${Version}", name)
    if version is None:
        return None
    return Package(name, version.strip(), await asyncio.to_thread(_mended, pathlib.Path("/usr/share/doc") / name))


def _mended(folder: pathlib.Path) -> frozenset[str] | None:
    for name in ("changelog.Debian.gz", "changelog.gz"):
        try:
            with gzip.open(folder / name, "rt", errors="replace") as file:
                return frozenset(_CVE.findall(file.read()))
        except OSError:
            continue
    return None  # slim images leave documentation out


async def _rpm(path: str) -> Package | None:
    owner = await _output("rpm", "-qf", "--qf", "%{NAME} %{VERSION}-%{RELEASE}", path)
    if owner is None or " " not in owner:
        return None
    name, _, version = owner.partition(" ")
    log = await _output("rpm", "-q", "--changelog", name)
    return Package(name, version.strip(), None if log is None else frozenset(_CVE.findall(log)))


async def _output(*command: str) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            text, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return text.decode(errors="replace") if process.returncode == 0 else None
