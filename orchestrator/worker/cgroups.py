"""What the kernel charged to one sandbox: cgroup v1 and v2, read through kept-open files.

A sandbox's container gets a parent cgroup of its own, made by us before the container exists. The container's own
cgroup goes away with its last process, and with it what was used since the last reading; the parent keeps the exact
CPU time and peak memory after exit and after removal, until we remove it (observed on v1 with Docker 20.10). Where we
may not make cgroups, the container's own is read, which ends with it.

A reading costs about a microsecond per file: files are opened once and read with `pread`. Nothing here blocks on
anything but the kernel's memory, so it runs on the event loop.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.worker.metering import Usage

#: The cgroup under which every worker has its own.
ROOT: Final = "dcp-sandboxes"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_V2_CONTROLLERS: Final = ("cpu", "memory", "pids")
#: memory.stat is long; page cache moves slowly enough to read it this rarely.
_CACHE_AGE_S: Final = 0.25


class CgroupFailure(Exception):
    """The cgroup tree does not allow what was asked; the message says where. Callers fall back to another source."""


# ------------------------------------------------------------------------------------------------- pure parsing


@dataclass(frozen=True)
class Hierarchies:
    """Where the kernel's cgroup trees are mounted. `v1` maps controller → mount point; `v2` is the unified tree."""

    v1: Mapping[str, pathlib.Path]
    v2: pathlib.Path | None

    @property
    def version(self) -> int:
        """2 only when v1 has no memory controller: in a hybrid set-up the controllers are v1's."""
        if "memory" in self.v1:
            return 1
        return 2 if self.v2 is not None else 0

    def mounts(self) -> list[pathlib.Path]:
        """Every tree that may hold a copy of a container's cgroup path, each once (cpu and cpuacct may share one).

        In a hybrid set-up that includes the unified tree: runc makes the path there too.
        """
        trees = [*self.v1.values(), *([self.v2] if self.v2 is not None else [])]
        return list(dict.fromkeys(trees))


def parse_mountinfo(text: str, root: pathlib.Path = pathlib.Path("/")) -> Hierarchies:
    """The cgroup mounts in the text of /proc/self/mountinfo, with their paths below `root`."""
    v1: dict[str, pathlib.Path] = {}
    v2: pathlib.Path | None = None
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not separator or len(left) < 5 or len(right) < 3:
            continue
        point = root / _ESCAPE.sub(lambda match: chr(int(match[1], 8)), left[4]).lstrip("/")
        if right[0] == "cgroup2":
            v2 = v2 or point
        elif right[0] == "cgroup":
            for option in right[2].split(","):
                if option not in ("rw", "ro"):
                    v1.setdefault(option, point)
    return Hierarchies(v1, v2)


def parse_proc_cgroup(text: str) -> dict[str, str]:
    """Controller → path in the text of /proc/<pid>/cgroup; the unified tree's path is under the empty name."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator and number.isdigit():
            for controller in controllers.split(","):
                paths[controller] = path
    return paths


def parse_flat_keyed(data: bytes) -> dict[str, int]:
    """`name value` lines (memory.stat, cpu.stat, memory.events, memory.oom_control). Other lines are skipped."""
    values: dict[str, int] = {}
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if value.isdigit():
            values[name.decode("ascii", "replace")] = int(value)
    return values


# ------------------------------------------------------------------------------------------------- one cgroup


class CgroupReader:
    """Counters of one cgroup (and all below it), through files opened once.

    `paths` maps a controller to a directory ("" is the unified tree). Raises CgroupFailure when a needed file is
    missing.
    """

    def __init__(self, version: int, paths: Mapping[str, pathlib.Path]) -> None:
        self._version = version
        self._files: list[int] = []
        self._cache_bytes = 0
        self._cache_read_at: float | None = None
        self._peak_bytes = 0
        self._last = Usage(0, 0)
        try:
            if version == 1:
                self._cpu = self._open(paths["cpuacct"] / "cpuacct.usage")
                self._stat = self._open(paths["memory"] / "memory.stat")
                self._current = self._open(paths["memory"] / "memory.usage_in_bytes")
                self._peak, self._resettable = self._open_peak(paths["memory"] / "memory.max_usage_in_bytes")
                self._events: int | None = self._open(paths["memory"] / "memory.oom_control")
            else:
                unified = paths[""]
                self._cpu = self._open(unified / "cpu.stat")
                self._stat = self._open(unified / "memory.stat")
                self._current = self._open(unified / "memory.current")
                self._peak, self._resettable = self._open_peak(unified / "memory.peak")
                self._events = self._open(unified / "memory.events")
        except KeyError as exc:
            self.close()
            raise CgroupFailure(f"no {exc.args[0] or 'unified'} cgroup tree") from exc
        except OSError as exc:
            self.close()
            raise CgroupFailure(f"cannot read {exc.filename}: {exc.strerror}") from exc

    def _open(self, path: pathlib.Path, flags: int = os.O_RDONLY) -> int:
        file = os.open(path, flags | os.O_CLOEXEC)
        self._files.append(file)
        return file

    def _open_peak(self, path: pathlib.Path) -> tuple[int | None, bool]:
        """The high-water mark, writable if it can be reset (v1; v2 from 6.12). v2 before 5.19 has none."""
        try:
            return self._open(path, os.O_RDWR), True
        except PermissionError:
            return self._open(path), False
        except FileNotFoundError:
            return None, False

    @property
    def peak_bytes(self) -> int:
        """The highest reading of all."""
        return self._peak_bytes

    def read(self, now: float, *, reset_peak: bool = True) -> Usage:
        """A reading; `now` is a monotonic clock. After the cgroup has gone, the last reading again.

        Peak memory is the kernel's high-water mark less the page cache: the first container that touches the image is
        charged the evaluator's binary as cache (over 100 MB), which is not the job's doing.
        """
        if not self._files:  # closed: the numbers may be other files' by now
            return self._last
        try:
            cpu_ns = self._cpu_ns()
            if self._cache_read_at is None or now - self._cache_read_at >= _CACHE_AGE_S:
                self._cache_bytes = self._page_cache()
                self._cache_read_at = now
            mark = int(os.pread(self._peak if self._peak is not None else self._current, 32, 0))
            if reset_peak and self._resettable and self._peak is not None:
                self._reset(self._peak)
        except OSError:
            return self._last
        peak = max(mark - self._cache_bytes, 0)
        self._peak_bytes = max(self._peak_bytes, peak)
        self._last = Usage(cpu_ns, peak)
        return self._last

    def glance(self, now: float) -> Usage:
        """CPU time, and memory of this moment in the place of the peak. It changes nothing that a slice is charged."""
        if not self._files:
            return Usage(self._last.cpu_ns, 0)
        try:
            if self._cache_read_at is None or now - self._cache_read_at >= _CACHE_AGE_S:
                self._cache_bytes = self._page_cache()
                self._cache_read_at = now
            return Usage(self._cpu_ns(), max(int(os.pread(self._current, 32, 0)) - self._cache_bytes, 0))
        except OSError:
            return Usage(self._last.cpu_ns, 0)

    def _reset(self, peak: int) -> None:
        try:
            os.pwrite(peak, b"0", 0)
        except OSError:
            self._resettable = False  # v2 before 6.12: the mark is the whole life's, an upper bound per slice

    def _cpu_ns(self) -> int:
        data = os.pread(self._cpu, 512, 0)
        if self._version == 1:
            return int(data)
        return parse_flat_keyed(data).get("usage_usec", 0) * 1000

    def _page_cache(self) -> int:
        """Without shared memory, which counts as cache but is the program's own: gVisor keeps all of a guest there."""
        stat = parse_flat_keyed(os.pread(self._stat, 16384, 0))
        if self._version == 1:
            return max(stat.get("total_cache", 0) - stat.get("total_shmem", 0), 0)
        return max(stat.get("file", 0) - stat.get("shmem", 0), 0)

    def oom_kills(self) -> int:
        """Processes that the kernel killed for memory. On v1 the counter does not include cgroups below this one."""
        if self._events is None or not self._files:
            return 0
        with contextlib.suppress(OSError):
            return parse_flat_keyed(os.pread(self._events, 512, 0)).get("oom_kill", 0)
        return 0

    def close(self) -> None:
        """Close the files. Idempotent."""
        files, self._files = self._files, []
        for file in files:
            os.close(file)


class SandboxCgroup:
    """A parent cgroup of one sandbox: made before its container, removed after it. `name` is what Docker is told."""

    def __init__(self, tree: CgroupTree, name: str) -> None:
        self._tree = tree
        self.name = name
        self.reader = CgroupReader(tree.version, tree.directories(name))

    def populated(self) -> bool:
        """Whether any process is in it or below, or Docker has made a cgroup below it."""
        return any(_children(directory) or _processes(directory) for directory in self._tree.everywhere(self.name))

    def processes(self) -> set[int]:
        """All process ids in it and below; 0 stands for one of a process-id namespace that is not ours."""
        found: set[int] = set()
        for directory in self._tree.everywhere(self.name):
            for folder in (directory, *_descendants(directory)):
                found.update(_processes(folder))
        return found

    def kill(self) -> int:
        """SIGKILL to whatever is left inside; how many there were. For a process that outlived its container."""
        processes = self.processes() - {0}
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        return len(processes)

    def remove(self) -> bool:
        """Close the files and remove the cgroup; False while something is still inside (call again later)."""
        self.reader.close()
        return self._tree.remove(self.name)


class CgroupTree:
    """The part of the host's cgroup tree that belongs to one worker: `/<root>/<worker>/<sandbox>`.

    Raises CgroupFailure at `prepare` when we may not make cgroups (no tree, read-only, not root, systemd owns it).
    """

    def __init__(self, hierarchies: Hierarchies, worker: str, root: str = ROOT) -> None:
        if not _NAME.fullmatch(worker) or not _NAME.fullmatch(root):
            raise ValueError(f"not a cgroup name: {root}/{worker}")
        self._hierarchies = hierarchies
        self.version = hierarchies.version
        self.base = f"/{root}/{worker}"

    @classmethod
    def of_this_machine(cls, worker: str) -> CgroupTree:
        """Raises `CgroupFailure` when the machine does not tell its mounts."""
        try:
            text = pathlib.Path("/proc/self/mountinfo").read_text()
        except OSError as exc:
            raise CgroupFailure(f"cannot read {exc.filename}: {exc.strerror}") from exc
        return cls(parse_mountinfo(text), worker)

    @property
    def hierarchies(self) -> Hierarchies:
        return self._hierarchies

    def prepare(self) -> None:
        """Make the worker's own directory and, on v2, hand the controllers down to it. Raises `CgroupFailure`."""
        if self.version == 0:
            raise CgroupFailure("no cgroup tree with a memory controller is mounted")
        try:
            for directory in self._own_trees(self.base):
                directory.mkdir(parents=True, exist_ok=True)
            if self.version == 2:
                self._delegate(self.base)
        except OSError as exc:
            raise CgroupFailure(f"cannot make {exc.filename}: {exc.strerror}") from exc

    def create(self, sandbox: str) -> SandboxCgroup:
        """The parent cgroup of one sandbox. Raises CgroupFailure."""
        if not _NAME.fullmatch(sandbox):
            raise ValueError(f"not a cgroup name: {sandbox}")
        name = f"{self.base}/{sandbox}"
        try:
            for directory in self._own_trees(name):
                directory.mkdir(parents=True, exist_ok=True)
            if self.version == 2:
                self._delegate(name)
            return SandboxCgroup(self, name)
        except OSError as exc:
            self.remove(name)
            raise CgroupFailure(f"cannot make {exc.filename}: {exc.strerror}") from exc
        except CgroupFailure:
            self.remove(name)
            raise

    def sandboxes(self) -> set[str]:
        """Names of the sandboxes whose cgroup exists in any tree."""
        return {child.name for directory in self.everywhere(self.base) for child in _children(directory)}

    def remove(self, name: str) -> bool:
        """Remove a cgroup that is empty but for empty cgroups, in every tree; whether it is gone from all of them.

        On v1 the container runtime makes the same path in trees that we never asked for (devices, freezer, …), and
        leaves it there.
        """
        gone = True
        for directory in self.everywhere(name):
            for folder in (*reversed(_descendants(directory)), directory):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        folder.rmdir()
                    except OSError:
                        gone = False
        return gone

    def dismantle(self) -> None:
        """Remove the worker's own directory, unless something is inside.

        The one above it belongs to all workers and stays: another's container may be on its way into it, and the
        container runtime fails when a directory vanishes between two steps of its own (observed with runc 1.1.5).
        """
        for directory in self.everywhere(self.base):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def remove_sandbox(self, sandbox: str) -> bool:
        return self.remove(f"{self.base}/{sandbox}")

    def directories(self, name: str) -> dict[str, pathlib.Path]:
        """Controller → directory of a cgroup; the unified tree is under the empty name."""
        if self.version == 2 and self._hierarchies.v2 is not None:
            return {"": self._hierarchies.v2 / name.lstrip("/")}
        return {controller: mount / name.lstrip("/") for controller, mount in self._hierarchies.v1.items()}

    def everywhere(self, name: str) -> list[pathlib.Path]:
        """The directories of a cgroup that exist, over all trees."""
        found = [mount / name.lstrip("/") for mount in self._hierarchies.mounts()]
        return [directory for directory in found if directory.is_dir()]

    def _own_trees(self, name: str) -> Iterable[pathlib.Path]:
        directories = self.directories(name)
        if self.version == 2:
            return directories.values()
        return dict.fromkeys(
            directories[controller] for controller in ("cpuacct", "memory") if controller in directories
        )

    def _delegate(self, name: str) -> None:
        """v2: a controller works in a cgroup only when every cgroup above it hands it down."""
        assert self._hierarchies.v2 is not None
        directory = self._hierarchies.v2
        for part in ("", *name.strip("/").split("/")):
            directory = directory / part
            offered = (directory / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{controller}" for controller in _V2_CONTROLLERS if controller in offered)
            (directory / "cgroup.subtree_control").write_text(wanted)


def open_container(hierarchies: Hierarchies, proc_cgroup: str) -> CgroupReader:
    """A reader on a container's own cgroup, found by the text of /proc/<its pid>/cgroup. Raises CgroupFailure."""
    inside = parse_proc_cgroup(proc_cgroup)
    if hierarchies.version == 2 and hierarchies.v2 is not None:
        return CgroupReader(2, {"": hierarchies.v2 / inside.get("", "/").lstrip("/")})
    paths = {
        controller: mount / inside[controller].lstrip("/")
        for controller, mount in hierarchies.v1.items()
        if controller in inside
    }
    return CgroupReader(1, paths)


def open_process(hierarchies: Hierarchies, pid: int, container_id: str) -> CgroupReader:
    """A reader on the cgroup of a container, by its process. Raises CgroupFailure.

    Also when the process is in a cgroup that is not the container's: an Engine that may make none leaves containers in
    its own, and what that was charged is everybody's (observed with a rootless Engine on cgroup v1).
    """
    try:
        text = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    except OSError as exc:
        raise CgroupFailure(f"cannot read {exc.filename}: {exc.strerror}") from exc
    paths = parse_proc_cgroup(text)
    for controller in ("cpuacct", "memory") if hierarchies.version == 1 else ("",):
        if container_id not in paths.get(controller, ""):
            raise CgroupFailure(f"the container has no {controller or 'unified'} cgroup of its own")
    return open_container(hierarchies, text)


# ------------------------------------------------------------------------------------------------- directories


def _children(directory: pathlib.Path) -> Sequence[pathlib.Path]:
    try:
        return [child for child in directory.iterdir() if child.is_dir()]
    except OSError:
        return []


def _descendants(directory: pathlib.Path) -> list[pathlib.Path]:
    """All cgroups below, parents before children."""
    found: list[pathlib.Path] = []
    for child in _children(directory):
        found.append(child)
        found.extend(_descendants(child))
    return found


def _processes(directory: pathlib.Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []
