"""Keystores: a private key sealed with a passphrase, in Ethereum's Web3 Secret Storage format, version 3.

New ones are written with the parameters of dcp-client 5.6.1 (scrypt n=1024, r=8, p=1, AES-128-CTR) and its extra
field `label`. Reading accepts any scrypt or PBKDF2 parameters up to a limit of memory and time, so files of geth and
eth-account open too; versions 1 and 4 and pre-sale wallets do not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.wallet import addresses
from orchestrator.wallet.keys import PrivateKey

SCRYPT_N = 1024
"""Cost of new keystores; r=8 and p=1 are eth-account's as well as dcp-client's."""
_DERIVED = 32
# A keystore may come from anywhere, and its parameters decide what opening it costs us.
_SCRYPT_MAX_MEMORY = 512 * 1024 * 1024
_SCRYPT_MAX_P = 16
_PBKDF2_MAX_ROUNDS = 20_000_000
_MAX_BRACKETS = 200
_KNOWN = {"version", "id", "address", "crypto", "label"}


class WrongPassphrase(NotPermitted):
    """The passphrase does not open the keystore. The code is dcp-client's."""

    code = "DCP_WA:UNLOCKX"


class MalformedKeystore(InvalidInput):
    """Not a keystore that can be opened; the message names the field. The code is dcp-client's."""

    code = "DCP_WA:MALFORMED"


@dataclasses.dataclass(frozen=True)
class Keystore:
    """One keystore file's content."""

    id: str
    address: str | None
    """Checksummed. The format allows files without it: those are only known after `unlock`."""
    crypto: Mapping[str, Any]
    """The sealed key as in the file, every field checked."""
    label: str | None = None
    other: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that others wrote (dcp-client: `timestamp`, `process`), kept when the file is written again."""

    @classmethod
    def encrypt(
        cls, key: PrivateKey, passphrase: str, label: str | None = None, *, other: Mapping[str, Any] | None = None
    ) -> Keystore:
        """Seal a key. Takes about 3 ms of CPU: from a coroutine call it through `asyncio.to_thread`."""
        content = _account_class().encrypt(key.secret, passphrase, kdf="scrypt", iterations=SCRYPT_N)
        return cls(content["id"], key.address, content["crypto"], label, dict(other or {}))

    async def unlock(self, passphrase: str) -> PrivateKey:
        """The key; the derivation runs in a thread.

        Raises `WrongPassphrase`, or `MalformedKeystore` when the file holds another key than it says. When cancelled
        the thread ends its work unseen.
        """
        return await asyncio.to_thread(self.unlock_blocking, passphrase)

    def unlock_blocking(self, passphrase: str) -> PrivateKey:
        """`unlock` for callers without an event loop; blocks while the key is derived.

        Raises `WrongPassphrase`, `MalformedKeystore`.
        """
        content = {"version": 3, "id": self.id, "crypto": self.crypto}
        try:
            secret = _account_class().decrypt(content, passphrase.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise WrongPassphrase(f"wrong passphrase for keystore {self.name}") from error
        try:
            key = PrivateKey(bytes(secret))
        except InvalidInput as error:
            raise MalformedKeystore(f"keystore {self.name} holds no secp256k1 key") from error
        if self.address is not None and key.address != self.address:
            raise MalformedKeystore(
                f"keystore {self.name} says address {self.address} but holds the key of {key.address}"
            )
        return key

    def opens_without_passphrase(self) -> bool:
        """Blocks like `unlock_blocking`."""
        try:
            self.unlock_blocking("")
        except WrongPassphrase:
            return False
        return True

    @property
    def name(self) -> str:
        """For prompts and messages: the label, else the address, else the id."""
        return self.label or self.address or self.id

    def to_json(self) -> dict[str, Any]:
        """The file's content, fields in the order in which dcp-client writes them."""
        content: dict[str, Any] = {"version": 3, "id": self.id}
        if self.address is not None:
            content["address"] = self.address[2:].lower()
        content["crypto"] = dict(self.crypto)
        if self.label is not None:
            content["label"] = self.label
        return content | {name: value for name, value in self.other.items() if name not in _KNOWN}

    @classmethod
    def from_json(cls, content: Any) -> Keystore:
        """Check every field. Raises `MalformedKeystore`."""
        content = _object(content, "the file")
        if (version := content.get("version")) != 3 or isinstance(version, bool):
            _refuse("version", f"is {_shown(version)}, but only version 3 (Ethereum Web3 Secret Storage) can be opened")
        label, address, identity = content.get("label"), content.get("address"), content.get("id", "")
        if label is not None and not isinstance(label, str):
            _refuse("label", "must be a string")
        if not isinstance(identity, str):
            _refuse("id", "must be a string")
        if address is not None:
            try:
                address = addresses.checksum(address)
            except InvalidInput as error:
                _refuse("address", f"is wrong: {error.message}")
        # Early versions of geth wrote `Crypto`.
        crypto = _object(content.get("crypto", content.get("Crypto")), "crypto")
        other = {name: value for name, value in content.items() if name not in _KNOWN | {"Crypto"}}
        _check(crypto)
        return cls(id=identity, address=address, crypto=crypto, label=label or None, other=other)

    @classmethod
    def parse(cls, text: str) -> Keystore:
        """Read a file's text. Raises `MalformedKeystore`."""
        # The parser recurses, and some libraries raise the limit that would stop it before the stack ends.
        if text.count("[") + text.count("{") > _MAX_BRACKETS:
            raise MalformedKeystore("not a keystore: too many nested values")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise MalformedKeystore(f"not a keystore: not JSON ({error})") from error
        return cls.from_json(content)


def _check(crypto: dict[str, Any]) -> None:
    """Every field that opening uses, so that the library is never asked for what it would choke on."""
    if crypto.get("cipher") != "aes-128-ctr":
        _refuse("crypto.cipher", f"is {_shown(crypto.get('cipher'))}, but only aes-128-ctr is known")
    kdf, parameters = crypto.get("kdf"), _object(crypto.get("kdfparams"), "crypto.kdfparams")
    if kdf == "scrypt":
        chosen = {name: _number(parameters, name) for name in ("n", "r", "p")}
        n, r, p = chosen.values()
        if n < 2 or n & (n - 1):
            _refuse("crypto.kdfparams.n", f"is {n}, but must be a power of two")
        if 128 * n * r > _SCRYPT_MAX_MEMORY or p > _SCRYPT_MAX_P:
            _refuse("crypto.kdfparams", f"asks for more than {_SCRYPT_MAX_MEMORY >> 20} MiB or p > {_SCRYPT_MAX_P}")
    elif kdf == "pbkdf2":
        chosen = {"c": _number(parameters, "c")}
        if parameters.get("prf") != "hmac-sha256":
            _refuse("crypto.kdfparams.prf", f"is {_shown(parameters.get('prf'))}, but only hmac-sha256 is known")
        if chosen["c"] > _PBKDF2_MAX_ROUNDS:
            _refuse("crypto.kdfparams.c", f"asks for more than {_PBKDF2_MAX_ROUNDS} rounds")
    else:
        _refuse("crypto.kdf", f"is {_shown(kdf)}, but only scrypt and pbkdf2 are known")
    if parameters.get("dklen") != _DERIVED:
        _refuse("crypto.kdfparams.dklen", f"is {_shown(parameters.get('dklen'))}, but must be {_DERIVED}")
    cipher_parameters = _object(crypto.get("cipherparams"), "crypto.cipherparams")
    _check_hex(parameters, "salt", "crypto.kdfparams.salt")
    _check_hex(cipher_parameters, "iv", "crypto.cipherparams.iv", 16)
    _check_hex(crypto, "ciphertext", "crypto.ciphertext", 32)
    _check_hex(crypto, "mac", "crypto.mac", 32)


def _account_class() -> Any:
    """eth-account, imported when first needed: a library below it raises the recursion limit to 100,000, with which a
    deeply nested JSON text from anybody would overflow the stack and end the process."""
    limit = sys.getrecursionlimit()
    try:
        from eth_account import Account  # noqa: PLC0415
    finally:
        sys.setrecursionlimit(limit)
    return Account


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(field, "must be a JSON object")
    return value


def _number(parameters: dict[str, Any], name: str) -> int:
    value = parameters.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        _refuse(f"crypto.kdfparams.{name}", f"is {_shown(value)}, but must be a positive integer")
    return value


def _check_hex(parameters: dict[str, Any], name: str, field: str, length: int | None = None) -> None:
    value = parameters.get(name)
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        raw = None
    if raw is None or (length is not None and len(raw) != length):
        _refuse(field, "must be hex digits" + (f" of {length} bytes" if length is not None else ""))


def _shown(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 40 else text[:37] + "..."


def _refuse(field: str, problem: str) -> NoReturn:
    raise MalformedKeystore(f"not a keystore: {field} {problem}", info={"field": field})
