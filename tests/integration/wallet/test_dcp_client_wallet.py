"""Keystores, addresses and signatures against the wallet of the unmodified dcp-client, in both directions."""

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.wallet import addresses, files, keys, passphrases
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore

pytestmark = pytest.mark.npm

SCRIPT = pathlib.Path(__file__).parent / "wallet.js"
PASSPHRASES = ["", "correct horse", "pässword 😀 é e\u0301", " spaces "]

Wallet = Callable[[str, Any], Any]


@pytest.fixture
def resource_directory(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "dcp"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def wallet(node: pathlib.Path, npm_modules: pathlib.Path, resource_directory: pathlib.Path) -> Wallet:
    environment = {
        "HOME": str(resource_directory.parent),
        "DCP_CONFIG_LOCATION": "",
        "DCP_SCHEDULER_LOCATION": "http://127.0.0.1:1/",
        "DCP_RESOURCE_DIR": str(resource_directory),
        "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
        "DCP_CLIENT_NO_PARSE_ARGV": "1",
    }

    def run(operation: str, argument: Any) -> Any:
        command = [node, SCRIPT, npm_modules / "dcp-client", operation, json.dumps(argument)]
        done = subprocess.run(
            command, env=environment, cwd=resource_directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert "error" not in answer, answer
        return answer["result"]

    return run


def run_cli(resource_directory: pathlib.Path, *arguments: str, **environment: str) -> Any:
    env: dict[str, str | None] = {"DCP_RESOURCE_DIR": str(resource_directory), **environment}
    result = CliRunner().invoke(cli, ["keystore", *arguments, "--output", "json"], env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("passphrase", PASSPHRASES)
async def test_it_opens_what_we_make(wallet: Wallet, resource_directory: pathlib.Path, passphrase: str) -> None:
    made = run_cli(resource_directory, "new", "--label", "mine 😀", **{passphrases.VARIABLE: passphrase})
    opened = wallet("open", {"name": "default", "passphrase": passphrase})
    key = await files.load(resource_directory / "default.keystore").unlock(passphrase)
    assert opened == {"address": made["address"], "label": "mine 😀", "privateKey": key.to_hex()}


@pytest.mark.parametrize("passphrase", PASSPHRASES)
async def test_we_open_what_it_makes(wallet: Wallet, resource_directory: pathlib.Path, passphrase: str) -> None:
    path = resource_directory / "theirs.keystore"
    made = wallet("make", {"passphrase": passphrase, "file": str(path), "label": "their label"})
    shown = run_cli(resource_directory, "show", "theirs", "--private-key", **{passphrases.VARIABLE: passphrase})
    assert {name: shown[name] for name in ("address", "privateKey", "label")} == made | {"label": "their label"}
    # Read and written again, it is the same file.
    content = json.loads(path.read_text())
    assert (await files.load(path).unlock(passphrase)).address == made["address"]
    assert Keystore.from_json(content).to_json() == content


def test_each_side_changes_a_passphrase_for_the_other(wallet: Wallet, resource_directory: pathlib.Path) -> None:
    path = resource_directory / "default.keystore"
    made = wallet("make", {"passphrase": "first", "file": str(path)})
    environment = {passphrases.VARIABLE: "first", passphrases.NEW_VARIABLE: "second"}
    changed = run_cli(resource_directory, "passwd", **environment)
    assert changed["address"] == made["address"]
    assert wallet("open", {"name": "default", "passphrase": "second"})["privateKey"] == made["privateKey"]
    # The fields that dcp-client wrote are still there.
    assert {"timestamp", "process"} <= set(json.loads(path.read_text()))


def test_the_identity_of_a_client(wallet: Wallet, resource_directory: pathlib.Path) -> None:
    key = files.load_or_create(resource_directory / "id.keystore", "id")
    assert wallet("open", {"id": True, "passphrase": ""}) == {
        "address": key.address,
        "label": "id",
        "privateKey": key.to_hex(),
    }


def test_the_same_forms_of_addresses(wallet: Wallet) -> None:
    mixed = [PrivateKey(bytes([i]) * 32).address for i in range(1, 6)]
    forms = [form for a in mixed for form in (a, a.lower(), a[2:], "0x" + a[2:].upper(), a[2:].upper(), a.upper())]
    forms += [a[:2] + a[2:].swapcase() for a in mixed] + [mixed[0][:-1], mixed[0] + "0", "", "0x"]
    theirs = wallet("addresses", forms)
    assert theirs == [addresses.checksum(form) if addresses.is_address(form) else None for form in forms]


def test_the_same_signatures(wallet: Wallet) -> None:
    key = PrivateKey.generate()
    bodies = [{"a": 1}, {"type": "ack", "nonce": "é中😀"}, [1.5, 0, None], {"x": "y" * 5000}]
    for body, signed in zip(bodies, wallet("sign", {"privateKey": key.to_hex(), "bodies": bodies}), strict=True):
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        ours, theirs = key.sign_message(text), signed["signature"]
        assert (list(ours.r), list(ours.s), ours.v) == (theirs["r"]["data"], theirs["s"]["data"], theirs["v"])
        r, s = bytes(theirs["r"]["data"]), bytes(theirs["s"]["data"])
        assert keys.recover(keys.message_digest(text), r, s, theirs["v"]) == signed["owner"] == key.address
