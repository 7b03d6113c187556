import asyncio
import copy
import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore, MalformedKeystore, WrongPassphrase

# eth-account raises the recursion limit of the process to 100,000, which turns deep JSON into a crash.
_limit = sys.getrecursionlimit()
from eth_account import Account  # noqa: E402

sys.setrecursionlimit(_limit)

# Made by dcp-client 5.6.1.
SECRET = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
PASSPHRASE = "correct horse"
FILE: dict[str, Any] = {
    "version": 3,
    "id": "1bc40ad7-4b4c-4a70-87c9-91308b761f1a",
    "address": "2c7536e3605d9c16a7a3d7b1898e529396a65c23",
    "crypto": {
        "ciphertext": "bfe4b21088467bd657bbfa364feee9ab1504eecf451c639c7f6bb512f97199e2",
        "cipherparams": {"iv": "2f8724d53960742059ba44023a9be073"},
        "cipher": "aes-128-ctr",
        "kdf": "scrypt",
        "kdfparams": {
            "dklen": 32,
            "salt": "e3a2c05e6afb141ca5c0af7d55109102a0a7186f302c3b82a5cc30927f387f73",
            "n": 1024,
            "r": 8,
            "p": 1,
        },
        "mac": "b9bd3e26b10cf22e81726c30a659439b672698d6cf7b54c34ff4cfb3c1444182",
    },
    "label": "test-vector",
    "timestamp": "Mon Nov 23 2026 18:53:27 GMT+0000 (Coordinated Universal Time)",
    "process": "mkks",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(FILE)
    *parents, name = path.split(".")
    target = content
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    return content


async def test_a_file_of_dcp_client_opens() -> None:
    keystore = Keystore.parse(json.dumps(FILE))
    assert (keystore.address, keystore.label, keystore.name) == (ADDRESS, "test-vector", "test-vector")
    assert (await keystore.unlock(PASSPHRASE)).to_hex() == SECRET
    assert keystore.to_json() == FILE
    assert list(keystore.to_json()) == list(FILE)


async def test_wrong_passphrase() -> None:
    with pytest.raises(WrongPassphrase, match="wrong passphrase for keystore test-vector") as caught:
        await Keystore.from_json(FILE).unlock("correct hors")
    assert caught.value.code == "DCP_WA:UNLOCKX"
    assert "hors" not in str(caught.value).replace("keystore", "")


async def test_derivation_is_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    decrypt = Account.decrypt

    def watched(content: Any, passphrase: Any) -> Any:
        threads.append(threading.current_thread())
        return decrypt(content, passphrase)

    monkeypatch.setattr(Account, "decrypt", watched)
    await asyncio.gather(*(Keystore.from_json(FILE).unlock(PASSPHRASE) for _ in range(3)))
    assert len(threads) == 3
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
        (changed("version", 1), "version is 1"),
        (changed("version", ...), "version is missing"),
        (changed("version", True), "version is True"),
        (changed("crypto", ...), "crypto must be"),
        (changed("crypto.cipher", "aes-256-gcm"), "only aes-128-ctr"),
        (changed("crypto.kdf", "argon2"), "crypto.kdf is 'argon2'"),
        (changed("crypto.kdfparams", []), "crypto.kdfparams must be"),
        (changed("crypto.kdfparams.n", 1000), "power of two"),
        (changed("crypto.kdfparams.n", 1), "power of two"),
        (changed("crypto.kdfparams.n", 1 << 30), "more than 512 MiB"),
        (changed("crypto.kdfparams.r", 1 << 30), "more than 512 MiB"),
        (changed("crypto.kdfparams.p", 1 << 20), "p > 16"),
        (changed("crypto.kdfparams.n", "1024"), "positive integer"),
        (changed("crypto.kdfparams.n", 1024.0), "positive integer"),
        (changed("crypto.kdfparams.dklen", 64), "dklen is 64"),
        (changed("crypto.kdfparams.salt", "xyz"), "salt must be hex"),
        (changed("crypto.cipherparams.iv", "00"), "iv must be hex digits of 16 bytes"),
        (changed("crypto.ciphertext", "00" * 31), "ciphertext must be hex digits of 32 bytes"),
        (changed("crypto.mac", 7), "mac must be hex"),
        (changed("address", "2c7536"), "address is wrong"),
        (changed("address", 7), "address is wrong"),
        (changed("label", 7), "label must be a string"),
        (changed("id", 7), "id must be a string"),
    ],
)
def test_malformed(content: Any, says: str) -> None:
    with pytest.raises(MalformedKeystore, match=says) as caught:
        Keystore.parse(json.dumps(content))
    assert caught.value.code == "DCP_WA:MALFORMED"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800", "0x12"])
def test_not_even_json(text: str) -> None:
    with pytest.raises(MalformedKeystore, match="not a keystore"):
        Keystore.parse(text)


def test_another_key_than_the_address_says() -> None:
    other = PrivateKey.generate().address[2:].lower()
    with pytest.raises(MalformedKeystore, match=f"but holds the key of {ADDRESS}"):
        Keystore.from_json(changed("address", other)).unlock_blocking(PASSPHRASE)


def test_a_file_without_an_address_opens() -> None:
    keystore = Keystore.from_json(changed("address", ...))
    assert keystore.address is None
    assert keystore.unlock_blocking(PASSPHRASE).address == ADDRESS
    assert "address" not in keystore.to_json()


def test_the_wallet_leaves_the_recursion_limit_alone() -> None:
    code = (
        "import sys, orchestrator.cli.keystore; from orchestrator.wallet import keys, keystores;"
        "keystores.Keystore.encrypt(keys.PrivateKey.generate(), '').unlock_blocking('');"
        "sys.exit('eth_account' not in sys.modules or sys.getrecursionlimit() != 1000)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
@pytest.mark.parametrize("passphrase", ["", "pässword 😀"])
def test_files_of_eth_account_open(kdf: Any, passphrase: str) -> None:
    content = Account.encrypt(SECRET, passphrase, kdf=kdf, iterations=1024)
    keystore = Keystore.parse(json.dumps(content))
    assert keystore.unlock_blocking(passphrase).to_hex() == SECRET
    assert Keystore.parse(json.dumps(keystore.to_json())) == keystore


@given(st.text(max_size=20), st.text(max_size=10))
@settings(max_examples=15, deadline=None)
def test_what_we_seal_opens_here_and_in_eth_account(passphrase: str, label: str) -> None:
    key = PrivateKey.generate()
    made = Keystore.encrypt(key, passphrase, label or None)
    again = Keystore.parse(json.dumps(made.to_json()))
    assert again == made
    assert again.unlock_blocking(passphrase) == key
    assert again.opens_without_passphrase() == (passphrase == "")
    assert bytes(Account.decrypt(made.to_json(), passphrase)) == key.secret


def test_the_parameters_and_randomness_of_new_ones() -> None:
    key = PrivateKey.generate()
    first, second = (Keystore.encrypt(key, "", "x").to_json() for _ in range(2))
    assert first["crypto"]["kdfparams"] | {"salt": ""} == {"dklen": 32, "salt": "", "n": 1024, "r": 8, "p": 1}
    assert first["crypto"]["kdfparams"]["salt"] != second["crypto"]["kdfparams"]["salt"]
    assert first["crypto"]["cipherparams"] != second["crypto"]["cipherparams"]
    assert first["id"] != second["id"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=70),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(FILE)), inner, max_size=5),
        max_leaves=8,
    )
)
@settings(max_examples=150)
def test_any_json_is_read_or_refused(content: Any) -> None:
    with pytest.raises(MalformedKeystore):
        Keystore.from_json(content)
