"""Keystore files: where dcp-client looks for them, reading, writing, and who else may read them.

Everything here blocks on the file system; from a coroutine call it through `asyncio.to_thread`.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Mapping

from orchestrator.errors import Fault, InvalidInput, NotFound, NotPermitted, OrchestratorError
from orchestrator.wallet import passphrases
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore, MalformedKeystore

_log = logging.getLogger(__name__)

ID = "id"
"""The keystore that signs connections and owns jobs."""
DEFAULT = "default"
"""The bank account that pays."""
SUFFIX = ".keystore"
_MAX_BYTES = 64 * 1024


class KeystoreExists(OrchestratorError):
    """The file is there already, and overwriting it would destroy a key."""

    code = "EEXIST"
    fault = Fault.USER


class UnsafeFile(NotPermitted):
    """Others on this machine may read or replace a key; the message names the remedy."""

    code = "EUNSAFE"


def resource_directory(environ: Mapping[str, str] | None = None) -> pathlib.Path:
    """`DCP_RESOURCE_DIR`, else `$XDG_DATA_HOME/dcp`, else `~/.dcp`: the first that is set, as in dcp-client 5.6.1."""
    environ = os.environ if environ is None else environ
    if directory := environ.get("DCP_RESOURCE_DIR"):
        return pathlib.Path(directory)
    if directory := environ.get("XDG_DATA_HOME"):
        return pathlib.Path(directory) / "dcp"
    home = environ.get("HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home()) / ".dcp"


def location(name: str, *, environ: Mapping[str, str] | None = None) -> pathlib.Path:
    """The path that a name stands for, whether or not there is a file.

    A name with a slash is a path, as is one that ends in `.keystore` and exists here; any other name is a file
    `<name>.keystore` in the resource directory.
    """
    if not name:
        raise InvalidInput("an empty text names no keystore: expected a name such as default, or a path")
    if os.sep in name or (name.endswith(SUFFIX) and pathlib.Path(name).is_file()):
        return pathlib.Path(name).expanduser()
    return resource_directory(environ) / (name if name.endswith(SUFFIX) else name + SUFFIX)


def find(name: str, *, environ: Mapping[str, str] | None = None) -> pathlib.Path:
    """The existing file that a name, label or path stands for (see `location`).

    When no file has the name, one in the resource directory whose `label` it is does. Raises `NotFound`, saying where
    it looked, and `InvalidInput` when several files have the label.
    """
    path = location(name, environ=environ)
    if path.is_file():
        return path
    labelled = [] if os.sep in name else _with_label(name, resource_directory(environ))
    if len(labelled) > 1:
        raise InvalidInput(f"several keystores have the label {name!r}: {', '.join(map(str, labelled))}; give a path")
    if labelled:
        return labelled[0]
    raise NotFound(
        f"no keystore {name!r}: looked for {path}; make one (dcp-orchestrator keystore new {name}), "
        "or name the folder of yours in DCP_RESOURCE_DIR",
        info={"looked": [str(path)]},
    )


def load(path: str | os.PathLike[str], *, warn: Callable[[str], None] = _log.warning) -> Keystore:
    """Read a file. Without a `label` of its own the keystore is labelled with the file's name, as in dcp-client.

    A file that other users may read is accepted and `warn` gets a message, since the passphrase still protects it;
    one that they may replace is not.

    Raises `NotFound`, `NotPermitted` (may not be read), `UnsafeFile`, `MalformedKeystore`; each names the file.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"no keystore file {path}") from error
    except OSError as error:
        raise NotPermitted(f"keystore file {path} cannot be read: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise UnsafeFile(f"keystore file {path} can be replaced by every user of this machine: chmod 600 {path}")
    if mode & stat.S_IROTH:
        warn(_readable_by_others(path))
    if len(raw) > _MAX_BYTES:
        raise MalformedKeystore(f"{path} is not a keystore: it has more than {_MAX_BYTES} bytes")
    try:
        keystore = Keystore.parse(raw.decode())
    except (MalformedKeystore, UnicodeDecodeError) as error:
        problem = error.message if isinstance(error, MalformedKeystore) else "not UTF-8 text"
        raise MalformedKeystore(f"{path}: {problem}") from error
    if keystore.label is None:
        return _labelled(keystore, path.name.removesuffix(SUFFIX))
    return keystore


def save(path: str | os.PathLike[str], keystore: Keystore, *, overwrite: bool = False) -> None:
    """Write a file that only its owner may read; it appears whole or not at all, and survives a power cut.

    Missing folders are made, closed to others. Raises `KeystoreExists` unless `overwrite`, `NotPermitted` when the
    folder cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        _write(temporary, json.dumps(keystore.to_json()).encode())
        try:
            if overwrite:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename it fails when the file exists
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            raise KeystoreExists(f"{path} exists, and overwriting it would destroy its key") from error
        raise NotPermitted(f"keystore file {path} cannot be written: {error.strerror}") from error


def load_or_create(path: str | os.PathLike[str], label: str) -> PrivateKey:
    """The key of a service or worker: made on first use, the same ever after.

    The file has the empty passphrase, or the one that the environment gives (see `passphrases`); nobody is asked.
    Takes a few milliseconds of CPU. Two processes that start at once get the same key.

    Raises what `load` and `passphrases.unlock` raise, and `UnsafeFile` when the file lets others read a key that no
    passphrase protects.
    """
    path = pathlib.Path(path)
    if not path.exists():
        key = PrivateKey.generate()
        keystore = Keystore.encrypt(key, passphrases.from_environment() or "", label)
        try:
            save(path, keystore)
            return key
        except KeystoreExists:
            pass  # another process was faster: its key is the one
    weaknesses: list[str] = []
    keystore = load(path, warn=weaknesses.append)
    key = passphrases.unlock(keystore)
    if weaknesses and keystore.opens_without_passphrase():
        raise UnsafeFile(f"{weaknesses[0]} (no passphrase protects its key)")
    for weakness in weaknesses:
        _log.warning(weakness)
    return key


def _readable_by_others(path: pathlib.Path) -> str:
    return f"keystore file {path} can be read by every user of this machine: chmod 600 {path}"


def _with_label(label: str, directory: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for path in sorted(directory.glob("*" + SUFFIX)):
        try:
            if Keystore.parse(path.read_bytes()[:_MAX_BYTES].decode()).label == label:
                found.append(path)
        except (OSError, ValueError, MalformedKeystore):
            continue  # not a keystore, so not the one that is looked for
    return found


def _labelled(keystore: Keystore, label: str) -> Keystore:
    return Keystore(keystore.id, keystore.address, keystore.crypto, label, keystore.other)


def _write(path: pathlib.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
