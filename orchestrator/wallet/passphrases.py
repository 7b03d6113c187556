"""Where a passphrase comes from: the environment, or a person at a terminal.

As dcp-client does, the empty passphrase is tried before anybody is asked, and a person gets five tries. dcp-client has
no variable for passphrases; these are ours:

- `DCP_ORCHESTRATOR_PASSPHRASE`: the passphrase itself,
- `DCP_ORCHESTRATOR_PASSPHRASE_FILE`: a file that holds it (one newline at its end is not part of it).
"""

from __future__ import annotations

import getpass
import os
import pathlib
import sys
from collections.abc import Callable, Mapping

from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore, WrongPassphrase

VARIABLE = "DCP_ORCHESTRATOR_PASSPHRASE"
NEW_VARIABLE = "DCP_ORCHESTRATOR_NEW_PASSPHRASE"
MAX_TRIES = 5

Prompt = Callable[[str], str]
"""Shows a text, returns what was typed (unseen)."""


class PassphraseNeeded(NotPermitted):
    """The keystore has a passphrase and nobody can be asked for it."""

    code = "DCP_WA:UNLOCKX"


def terminal_prompt() -> Prompt | None:
    """Asks on the terminal; None when standard input is not one, so that no program ever waits for nobody."""
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass
    return None


def from_environment(variable: str = VARIABLE, environ: Mapping[str, str] | None = None) -> str | None:
    """The passphrase that the environment gives, or None.

    Raises `InvalidInput` when both variables are set or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    text, file = environ.get(variable), environ.get(f"{variable}_FILE")
    if file is None:
        return text
    if text is not None:
        raise InvalidInput(f"both {variable} and {variable}_FILE are set: unset one")
    try:
        content = pathlib.Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{variable}_FILE={file} cannot be read: {error}") from error
    return content.removesuffix("\n").removesuffix("\r")


def unlock(keystore: Keystore, *, environ: Mapping[str, str] | None = None, prompt: Prompt | None = None) -> PrivateKey:
    """Open a keystore: with the empty passphrase, else from the environment, else by asking up to five times.

    `prompt` is `terminal_prompt()` for commands and None (never ask) for services. Blocks: call it before the event
    loop starts, or in a thread when `prompt` is None.

    Raises `WrongPassphrase` when what was given does not open it, `PassphraseNeeded` when nothing was.
    """
    try:
        return keystore.unlock_blocking("")
    except WrongPassphrase:
        pass
    given = from_environment(environ=environ)
    if given is not None:
        try:
            return keystore.unlock_blocking(given)
        except WrongPassphrase as error:
            raise WrongPassphrase(f"{error.message}: correct {VARIABLE} (or {VARIABLE}_FILE)") from error
    if prompt is None:
        raise PassphraseNeeded(
            f"keystore {keystore.name} has a passphrase and there is no terminal to ask for it:"
            f" set {VARIABLE} or {VARIABLE}_FILE"
        )
    return _ask(keystore, prompt)


def choose(
    what: str, *, variable: str = VARIABLE, environ: Mapping[str, str] | None = None, prompt: Prompt | None = None
) -> str:
    """A new passphrase: from the environment, else typed twice.

    Raises `PassphraseNeeded` when neither is possible, `InvalidInput` when the two differ five times.
    """
    given = from_environment(variable, environ)
    if given is not None:
        return given
    if prompt is None:
        raise PassphraseNeeded(
            f"{what} needs a passphrase and there is no terminal to ask for it:"
            f" set {variable} or {variable}_FILE, or choose --empty-passphrase"
        )
    for _ in range(MAX_TRIES):
        first = prompt(f"New passphrase for {what} (empty for none): ")
        if prompt("The same again: ") == first:
            return first
    raise InvalidInput(f"the two passphrases differed {MAX_TRIES} times")


def _ask(keystore: Keystore, prompt: Prompt) -> PrivateKey:
    question = f"Enter your passphrase ({keystore.name}): "
    for left in reversed(range(MAX_TRIES)):
        try:
            return keystore.unlock_blocking(prompt(question))
        except WrongPassphrase:
            question = f"Wrong passphrase, {left} {'try' if left == 1 else 'tries'} left ({keystore.name}): "
    raise WrongPassphrase(f"wrong passphrase for keystore {keystore.name}, {MAX_TRIES} times")
