"""Who this worker is: an identity keystore and a worker id, made on first start and kept in the state folder."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import secrets
import string
from typing import Final

from orchestrator.errors import InvalidInput
from orchestrator.wallet import addresses, files
from orchestrator.wallet.keys import PrivateKey

KEYSTORE: Final = "worker.keystore"
ID_FILE: Final = "worker-id"
_ALPHABET: Final = string.ascii_letters + string.digits
_WORKER_ID: Final = re.compile(r"[A-Za-z0-9]{22}")


@dataclasses.dataclass(frozen=True)
class WorkerAccount:
    """Who the worker is: its key, its id (22 letters and digits, the same ever after), who is paid for its work."""

    identity: PrivateKey
    worker_id: str
    payment_address: str


def load_account(
    state_dir: pathlib.Path, identity: pathlib.Path | None = None, payment_address: str | None = None
) -> WorkerAccount:
    """Read the account, or make it. Blocks for some milliseconds (key derivation, disk).

    Raises `InvalidInput` (bad address, damaged file) and what the keystore files raise.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput(f"the state folder {state_dir} cannot be made: {error.strerror}") from None
    key = files.load_or_create(identity or state_dir / KEYSTORE, "worker")
    payee = key.address if payment_address is None else addresses.checksum(payment_address)
    return WorkerAccount(key, _worker_id(state_dir / ID_FILE), payee)


def _worker_id(path: pathlib.Path) -> str:
    """22 letters and digits. Two processes that start at once get the same one."""
    try:
        with path.open("x") as file:
            worker_id = "".join(secrets.choice(_ALPHABET) for _ in range(22))
            file.write(worker_id + "\n")
            return worker_id
    except FileExistsError:
        worker_id = path.read_text().strip()
    if not _WORKER_ID.fullmatch(worker_id):
        raise InvalidInput(f"{path} does not hold a worker id of 22 letters and digits: remove it to get a new one")
    return worker_id
