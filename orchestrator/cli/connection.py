"""How commands reach a Scheduler's services: where it is, and as whom."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Final

import click

from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.protocol.client import DcpClient, fetch_config
from orchestrator.wallet import files, passphrases
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
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the answer."
)


def unlock(name: str) -> PrivateKey:
    """The key of a keystore that was named on the command line; may ask the terminal for its passphrase.

    Raises what `files.find`, `files.load` and `passphrases.unlock` raise.
    """
    return unlock_file(files.find(name))


def unlock_file(path: pathlib.Path) -> PrivateKey:
    """The same, of the keystore in a file."""
    found = files.load(path, warn=lambda text: click.echo(f"dcp-orchestrator: warning: {text}", err=True))
    return passphrases.unlock(found, prompt=passphrases.terminal_prompt())


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
