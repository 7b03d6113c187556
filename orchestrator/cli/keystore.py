"""`dcp-orchestrator keystore`: files that dcp-client opens, and the other way round."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import click

from orchestrator.errors import InvalidInput
from orchestrator.wallet import files, passphrases
from orchestrator.wallet.files import KeystoreExists
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore

_output = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the answer."
)
_empty = click.option("--empty-passphrase", is_flag=True, help="Give it no passphrase, and do not ask for one.")

_NAMES = """KEYSTORE is a path (with a slash), or a name: NAME stands for the file NAME.keystore in $DCP_RESOURCE_DIR,
else $XDG_DATA_HOME/dcp, else ~/.dcp, as in dcp-client. `id` signs connections and owns jobs, `default` is the bank
account that pays."""

_PASSPHRASES = f"""The empty passphrase is tried first, then ${passphrases.VARIABLE} (or the content of the file
${passphrases.VARIABLE}_FILE), then a terminal is asked."""


@click.group(name="keystore", help="Make, show and re-encrypt keystore files.\n\n" + _NAMES)
def command() -> None:
    pass


@command.command(
    help="Make a keystore with a new key.\n\n"
    + _NAMES
    + f"\n\nIts passphrase is ${passphrases.VARIABLE} or in ${passphrases.VARIABLE}_FILE, else a terminal is asked."
)
@click.argument("keystore", default=files.DEFAULT)
@click.option("--label", help="What dcp-client calls it in prompts; the file's name when not given.")
@click.option(
    "--private-key-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=pathlib.Path),
    help="Take the key (64 hex digits) from this file, or from standard input (-), instead of making one.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file: its key is lost.")
@_empty
@_output
def new(
    *,
    keystore: str,
    label: str | None,
    private_key_file: pathlib.Path | None,
    force: bool,
    empty_passphrase: bool,
    output: str,
) -> None:
    path = files.location(keystore)
    if path.exists() and not force:  # said before anybody types a passphrase; `save` decides
        raise KeystoreExists(f"{path} exists, and overwriting it would destroy its key: use --force if you mean it")
    key = PrivateKey.generate() if private_key_file is None else _read_key(private_key_file)
    passphrase = "" if empty_passphrase else passphrases.choose(str(path), prompt=passphrases.terminal_prompt())
    made = Keystore.encrypt(key, passphrase, label or path.name.removesuffix(files.SUFFIX))
    files.save(path, made, overwrite=force)
    _print(_described(path, made), output)


@command.command(help="Show a keystore's address, label and parameters.\n\n" + _NAMES + "\n\n" + _PASSPHRASES)
@click.argument("keystore", default=files.DEFAULT)
@click.option("--private-key", is_flag=True, help="Unlock it and show the private key too.")
@_output
def show(keystore: str, private_key: bool, output: str) -> None:
    path, found = _open(keystore)
    answer = _described(path, found)
    if private_key or found.address is None:
        key = passphrases.unlock(found, prompt=passphrases.terminal_prompt())
        answer["address"] = key.address
        if private_key:
            answer["privateKey"] = key.to_hex()
    _print(answer, output)


@command.command(
    help="Give a keystore another passphrase.\n\n"
    + _NAMES
    + "\n\n"
    + _PASSPHRASES
    + f" The new one comes from ${passphrases.NEW_VARIABLE} (or, again, _FILE), else a terminal is asked."
)
@click.argument("keystore", default=files.DEFAULT)
@_empty
@_output
def passwd(keystore: str, empty_passphrase: bool, output: str) -> None:
    path, found = _open(keystore)
    prompt = passphrases.terminal_prompt()
    key = passphrases.unlock(found, prompt=prompt)
    passphrase = (
        "" if empty_passphrase else passphrases.choose(found.name, variable=passphrases.NEW_VARIABLE, prompt=prompt)
    )
    changed = Keystore.encrypt(key, passphrase, found.label, other=found.other)
    files.save(path, changed, overwrite=True)
    _print(_described(path, changed), output)


def _open(name: str) -> tuple[pathlib.Path, Keystore]:
    path = files.find(name)
    return path, files.load(path, warn=lambda text: click.echo(f"dcp-orchestrator: warning: {text}", err=True))


def _read_key(path: pathlib.Path) -> PrivateKey:
    with click.open_file(str(path)) as file:
        try:
            return PrivateKey.from_hex(file.read(4096).strip())
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path} holds no private key: expected 64 hex digits") from error


def _described(path: pathlib.Path, keystore: Keystore) -> dict[str, Any]:
    parameters = keystore.crypto["kdfparams"]
    return {
        "file": str(path),
        "address": keystore.address,
        "label": keystore.label,
        "id": keystore.id,
        "kdf": {"name": keystore.crypto["kdf"], **{name: parameters[name] for name in "nrpc" if name in parameters}},
    }


def _print(answer: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        text = (
            " ".join(f"{k}={v}" if k != "name" else v for k, v in value.items()) if isinstance(value, dict) else value
        )
        click.echo(f"{name:<10} {text}")
