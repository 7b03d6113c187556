"""How commands reach a Scheduler's services: where it is, and as whom."""

from __future__ import annotations

import asyncio
import os
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.protocol.client import DcpClient, fetch_config
from orchestrator.wallet import addresses, files, passphrases
from orchestrator.wallet.keys import PrivateKey

_ANSWER_S: Final = 60.0
_DEFAULT_URL: Final = "http://127.0.0.1:9001/"
IDENTITY_CACHE: Final = "identity-cache.json"
"""in the resource folder: the same file in which dcp-client remembers the keys of services"""

scheduler_option = click.option(
    "--scheduler", "scheduler_url", metavar="URL",
    default=lambda: os.environ.get("DCP_SCHEDULER_LOCATION") or _DEFAULT_URL,
    help=f"Origin of the Scheduler.  [default: $DCP_SCHEDULER_LOCATION, or {_DEFAULT_URL}]",
)  # fmt: skip
identity_option = click.option(
    "--identity", metavar="KEYSTORE", default=files.ID, show_default=True,
    help="Whose jobs and groups: a keystore's name or path, as for `keystore show`.",
)  # fmt: skip
once_option = click.option(
    "--id", "transfer_id", metavar="ID",
    help="What the transfer is called: the same id again moves nothing more. Made when not given, and printed.",
)  # fmt: skip
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the answer."
)


def teller_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of commands that move money."""
    return scheduler_option(once_option(output_option(function)))


def unlock(name: str) -> PrivateKey:
    """The key of a keystore that was named on the command line; may ask the terminal for its passphrase.

    Raises what `files.find`, `files.load` and `passphrases.unlock` raise.
    """
    return unlock_file(files.find(name))


def unlock_file(path: pathlib.Path) -> PrivateKey:
    """The same, of the keystore in a file."""
    found = files.load(path, warn=lambda text: click.echo(f"dcp-orchestrator: warning: {text}", err=True))
    return passphrases.unlock(found, prompt=passphrases.terminal_prompt())


def address_of(text: str) -> str:
    """An address, or the one of a keystore. Raises `InvalidInput` for what is neither."""
    if text.startswith("0x") or addresses.is_address(text):
        return addresses.checksum(text)
    address = files.load(files.find(text)).address
    if address is None:
        raise InvalidInput(f"the keystore {text} does not say its address: give the address")
    return address


def ask(
    scheduler_url: str,
    key: PrivateKey,
    service: str,
    operation: str,
    data: Any,
    *,
    authorize: Sequence[PrivateKey] = (),
    of: str = "scheduler",
) -> Any:
    """One request to a service of the Scheduler (or `of` the "bank"), and its answer.

    Raises `InvalidInput` when the Scheduler has no such service, `NetworkFailure` when nobody answers in time,
    `RemoteError` when the service refuses, `PeerChanged` when the Scheduler is not the one that was there before.
    """
    return asyncio.run(_ask(scheduler_url, key, service, operation, data, authorize=authorize, of=of))


def ask_once(
    scheduler_url: str,
    payer: PrivateKey,
    service: str,
    operation: str,
    data: Mapping[str, Any],
    *,
    transfer_id: str | None,
    of: str = "scheduler",
) -> Any:
    """Move money once, with a `transfer_id` made here when there is none. Whoever asks stays unknown: the signature of
    `payer` is what counts.

    Raises what `ask` raises; when no answer came, the error says with which --id to repeat the command.
    """
    transfer_id = transfer_id if transfer_id is not None else uuid.uuid4().hex
    asked = {**data, "transferId": transfer_id}
    try:
        return ask(scheduler_url, PrivateKey.generate(), service, operation, asked, authorize=[payer], of=of)
    except NetworkFailure as error:
        unknown = f"{error.message}; whether it acted is not known: repeat it with --id {transfer_id}"
        raise NetworkFailure(unknown) from error


async def _ask(
    scheduler_url: str,
    key: PrivateKey,
    service: str,
    operation: str,
    data: Any,
    *,
    authorize: Sequence[PrivateKey],
    of: str,
) -> Any:
    config = await fetch_config(scheduler_url)
    try:
        url = config[of]["services"][service]["location"]
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"the Scheduler at {scheduler_url} names no service {of}.{service}") from error
    async with DcpClient(key, files.resource_directory() / IDENTITY_CACHE) as client:
        connection = client.connect(url)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await connection.request(operation, data, authorize=authorize)
        except TimeoutError as error:
            raise NetworkFailure(f"{url} did not answer within {_ANSWER_S:g} s") from error
