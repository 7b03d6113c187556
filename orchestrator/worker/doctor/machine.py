"""This process and its machine: descriptors, inotify, disk, the state folder, the keystore, the socket, the ports."""

from __future__ import annotations

import os
import pathlib
import resource
import secrets
import shutil
import socket
import stat
from typing import Final

from orchestrator.errors import OrchestratorError
from orchestrator.wallet import addresses, files, passphrases
from orchestrator.worker import control_socket
from orchestrator.worker.account import ID_FILE, KEYSTORE
from orchestrator.worker.doctor import check
from orchestrator.worker.doctor.check import Check

GIB: Final = 1 << 30
MIB: Final = 1 << 20
#: Of a sandbox: its attached stream, and the files of its cgroup. Beside them: database of nothing, sockets, log.
_FILES_PER_SANDBOX: Final = 8
_FILES_BESIDE: Final = 128


# -- descriptors -------------------------------------------------------------------------------------------------------


def judge_descriptors(soft: int, hard: int, sandboxes: int) -> Check:
    """`sandboxes` counts the warm ones, too."""
    need = _FILES_BESIDE + _FILES_PER_SANDBOX * sandboxes
    wanted = f"{need} for {sandboxes} sandboxes"
    if soft >= need:
        return check.ok("open files", f"limit {soft}", wanted)
    return check.fail(
        "open files", f"limit {soft} (hard limit {hard})", wanted,
        f"Raise it: `ulimit -n {need}`, or LimitNOFILE={need} in the service's unit.",
    )  # fmt: skip


def descriptors(sandboxes: int) -> Check:
    return judge_descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE), sandboxes)


def judge_inotify(instances: int | None, cgroup_version: str, sandboxes: int) -> Check:
    """On cgroup v2 containerd watches each container's memory with an inotify instance of root's."""
    name = "inotify"
    if cgroup_version != "2":
        return check.skip(name, "only needed with cgroup version 2")
    need = sandboxes + 64
    if instances is None:
        return check.skip(name, "fs.inotify.max_user_instances cannot be read here")
    if instances >= need:
        return check.ok(name, f"{instances} instances per user", f"{need}")
    return check.warn(
        name, f"{instances} instances per user: the Engine may miss that a sandbox ran out of memory", f"{need}",
        f"`sysctl fs.inotify.max_user_instances={max(need, 1024)}`, and in /etc/sysctl.d to keep it.",
    )  # fmt: skip


def inotify(cgroup_version: str, sandboxes: int) -> Check:
    try:
        text = pathlib.Path("/proc/sys/fs/inotify/max_user_instances").read_text()
        instances: int | None = int(text)
    except (OSError, ValueError):
        instances = None
    return judge_inotify(instances, cgroup_version, sandboxes)


# -- disk --------------------------------------------------------------------------------------------------------------


def judge_disk(name: str, path: str, free: int, free_inodes: int, *, least: int, enough: int) -> Check:
    """`least` and `enough` in bytes: below the first it fails, below the second it warns. No inodes told count as
    enough (some file systems have no fixed number)."""
    wanted = f"{_size(enough)} free"
    found = f"{_size(free)} free at {path}"
    remedy = f"Make room on the file system of {path} (`docker system prune` removes what no container uses)."
    if free < least:
        return check.fail(name, found, wanted, remedy)
    if 0 < free_inodes < 1000:
        return check.fail(name, f"{found}, but only {free_inodes} inodes", wanted, remedy)
    if free < enough:
        return check.warn(name, found, wanted, remedy)
    return check.ok(name, found, wanted)


def disk(name: str, path: pathlib.Path, *, least: int, enough: int) -> Check:
    """Of the nearest folder that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        free, inodes = shutil.disk_usage(path).free, os.statvfs(path).f_favail
    except OSError as error:
        return check.skip(name, f"{path} cannot be asked: {error.strerror}")
    return judge_disk(name, str(path), free, inodes, least=least, enough=enough)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


# -- the state folder and what is in it --------------------------------------------------------------------------------


def state_folder(folder: pathlib.Path) -> Check:
    """Writes and syncs a file in it, or in the nearest folder that exists, when it must still be made."""
    name, wanted = "state folder", "a folder that only this user may write"
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    probe = nearest / f".doctor-{secrets.token_hex(6)}"
    try:
        mode = nearest.stat().st_mode
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"doctor")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        return check.fail(
            name, f"{nearest} cannot be written: {error.strerror}", wanted,
            "Give another --state, or make it yours (`chown`).",
        )  # fmt: skip
    if nearest == folder and mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        return check.fail(name, f"others may write into {folder}", wanted, f"chmod 700 {folder}")
    return check.ok(name, f"{folder}" if nearest == folder else f"{folder} (to be made)", wanted)


def keystore(state_dir: pathlib.Path, identity: pathlib.Path | None, payment_address: str | None) -> Check:
    """Blocks for some milliseconds (key derivation). Asks nobody for a passphrase."""
    name, wanted = "keystore", "an identity that this user, and nobody else, can open"
    path = identity or state_dir / KEYSTORE
    if payment_address is not None:
        try:
            addresses.checksum(payment_address)
        except OrchestratorError as error:
            return check.fail(name, f"payment_address: {error.message}", wanted, "Write 0x and 40 hexadecimal digits.")
    if not path.exists():
        return check.ok(name, f"{path} is not there yet: the first start makes it", wanted)
    weaknesses: list[str] = []
    try:
        loaded = files.load(path, warn=weaknesses.append)
        key = passphrases.unlock(loaded)
    except OrchestratorError as error:
        return check.fail(
            name, error.message, wanted,
            f"See `dcp-orchestrator keystore show {path}`; {passphrases.VARIABLE} (or its _FILE) gives the passphrase.",
        )  # fmt: skip
    if weaknesses:
        judged = check.fail if loaded.opens_without_passphrase() else check.warn
        return judged(name, weaknesses[0].partition(":")[0], wanted, f"chmod 600 {path}")
    return check.ok(name, f"{path}: {key.address}", wanted)


def worker_id(state_dir: pathlib.Path) -> Check | None:
    """Only when it is damaged."""
    path = state_dir / ID_FILE
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        return check.fail("worker id", f"{path} cannot be read: {error.strerror}", "", "Make it yours (`chown`).")
    if len(text) == 22 and text.isascii() and text.isalnum():
        return None
    return check.fail(
        "worker id", f"{path} does not hold 22 letters and digits", "an id", f"Remove {path}: the next start makes one."
    )


def control(state_dir: pathlib.Path) -> Check:
    """The control socket: whether a worker can have it, or has it."""
    name, wanted = "control socket", "free, or a worker's that answers"
    path = state_dir / control_socket.SOCKET
    owner = _lock_owner(state_dir / control_socket.LOCK)
    if owner is None:
        length = len(os.fsencode(os.path.abspath(path)))  # noqa: PTH100
        if length > control_socket.LONGEST_PATH and not pathlib.Path("/proc/self/fd").exists():
            return check.fail(
                name, f"its path has {length} bytes", f"at most {control_socket.LONGEST_PATH} where there is no /proc",
                "Give a shorter --state.",
            )  # fmt: skip
        return check.ok(name, f"{path} is free", wanted)
    try:
        with socket.socket(socket.AF_UNIX) as probe, control_socket.short_path(path) as short:
            probe.settimeout(2.0)
            probe.connect(short)
    except (OSError, OrchestratorError) as error:
        return check.warn(
            name, f"process {owner} has the state folder, but {path} does not answer ({error})", wanted,
            "Wait until that worker has ended or started, or end it.",
        )  # fmt: skip
    return check.ok(name, f"a worker answers (process {owner}); a second one needs another --state", wanted)


def _lock_owner(lock: pathlib.Path) -> str | None:
    """The process that holds the state folder; None when nobody does.

    Asks the kernel's list: trying the lock would be in the way of a worker that starts at this moment.
    """
    try:
        inode = lock.stat().st_ino
        held = pathlib.Path("/proc/locks").read_text()
    except OSError:
        return None
    for line in held.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return fields[4]
    return None


def port(name: str, host: str, number: int) -> Check:
    """Whether a TCP port can be listened on."""
    wanted = f"{host}:{number} to be free"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        return check.warn(
            name, f"{host}:{number}: {error.strerror or error}", wanted,
            "Another program listens there (`ss -ltnp`), perhaps the running worker; choose another port.",
        )  # fmt: skip
    return check.ok(name, f"{host}:{number} is free", wanted)
