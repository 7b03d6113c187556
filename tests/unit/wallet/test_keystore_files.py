import asyncio
import json
import logging
import os
import pathlib
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.errors import InvalidInput, NotFound, NotPermitted
from orchestrator.wallet import files, passphrases
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore, MalformedKeystore, WrongPassphrase


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in list(os.environ):
        if name.startswith("DCP_") or name == "XDG_DATA_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path))


def made(path: pathlib.Path, passphrase: str = "", label: str | None = None) -> PrivateKey:
    key = PrivateKey.generate()
    files.save(path, Keystore.encrypt(key, passphrase, label))
    return key


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"DCP_RESOURCE_DIR": "/r", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/r/id.keystore"),
        ({"DCP_RESOURCE_DIR": "", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/dcp/id.keystore"),
        ({"HOME": "/h"}, "/h/.dcp/id.keystore"),
    ],
)
def test_where_a_name_is_looked_for(environ: dict[str, str], expected: str) -> None:
    assert str(files.location("id", environ=environ)) == expected
    assert str(files.location("id.keystore", environ=environ)) == expected
    assert str(files.location("./id", environ=environ)) == "id"


def test_find_by_name_path_and_label(tmp_path: pathlib.Path) -> None:
    one, two = tmp_path / "one.keystore", tmp_path / "two.keystore"
    made(one, label="Savings")
    made(two, label="one")
    (tmp_path / "broken.keystore").write_text("{")
    assert files.find("one") == one
    assert files.find(str(two)) == two
    assert files.find("Savings") == one
    with pytest.raises(NotFound, match=f"looked for {tmp_path}/id.keystore"):
        files.find("id")
    with pytest.raises(NotFound):
        files.find(str(tmp_path / "Savings"))
    made(tmp_path / "three.keystore", label="Savings")
    with pytest.raises(InvalidInput, match="several keystores have the label"):
        files.find("Savings")
    with pytest.raises(InvalidInput, match="names no keystore"):
        files.find("")


def test_saved_files_are_closed_to_others_and_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "dir" / "x.keystore"
    key = made(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(files.KeystoreExists, match="destroy its key"):
        made(path)
    assert files.load(path).unlock_blocking("") == key
    assert [p.name for p in path.parent.iterdir()] == ["x.keystore"]
    other = PrivateKey.generate()
    files.save(path, Keystore.encrypt(other, ""), overwrite=True)
    assert files.load(path).unlock_blocking("") == other
    assert [p.name for p in path.parent.iterdir()] == ["x.keystore"]


def test_the_label_is_the_file_name_unless_given(tmp_path: pathlib.Path) -> None:
    made(tmp_path / "a.keystore")
    made(tmp_path / "b.keystore", label="c")
    assert files.load(tmp_path / "a.keystore").label == "a"
    assert files.load(tmp_path / "b.keystore").label == "c"


def test_a_file_that_others_may_read_or_replace(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.keystore"
    made(path)
    path.chmod(0o640)
    said: list[str] = []
    files.load(path, warn=said.append)
    assert said == []
    path.chmod(0o644)
    files.load(path, warn=said.append)
    assert said == [f"keystore file {path} can be read by every user of this machine: chmod 600 {path}"]
    with caplog.at_level(logging.WARNING):
        files.load(path)
    assert said[0] in caplog.text
    path.chmod(0o602)
    with pytest.raises(files.UnsafeFile, match="can be replaced by every user"):
        files.load(path)


def test_unreadable_and_malformed_files_are_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.keystore"
    with pytest.raises(NotFound, match=str(path)):
        files.load(path)
    with pytest.raises(NotPermitted, match="Is a directory"):
        files.load(tmp_path)
    for content, says in ((b"{", "not JSON"), (b"\xff\xfe", "not UTF-8"), (b" " * 70_000, "more than 65536 bytes")):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(MalformedKeystore, match=says) as caught:
            files.load(path)
        assert str(path) in caught.value.message
    with pytest.raises(NotPermitted, match="File exists"):
        made(path / "y.keystore")


def test_load_or_create_makes_one_key_for_ever(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "scheduler" / "bankTeller.keystore"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: files.load_or_create(path, "bankTeller"), range(8)))
    assert len({key.address for key in found}) == 1
    assert files.load_or_create(path, "other label") == found[0]
    assert files.load(path).label == "bankTeller"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_load_or_create_with_a_passphrase(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.keystore"
    monkeypatch.setenv(passphrases.VARIABLE, "secret")
    key = files.load_or_create(path, "x")
    assert not files.load(path).opens_without_passphrase()
    assert files.load_or_create(path, "x") == key
    monkeypatch.setenv(passphrases.VARIABLE, "other")
    with pytest.raises(WrongPassphrase, match="correct DCP_ORCHESTRATOR_PASSPHRASE"):
        files.load_or_create(path, "x")
    monkeypatch.delenv(passphrases.VARIABLE)
    with pytest.raises(passphrases.PassphraseNeeded, match="set DCP_ORCHESTRATOR_PASSPHRASE"):
        files.load_or_create(path, "x")


def test_load_or_create_refuses_an_open_key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.keystore"
    files.load_or_create(path, "x")
    path.chmod(0o644)
    with pytest.raises(files.UnsafeFile, match="no passphrase protects"):
        files.load_or_create(path, "x")
    sealed = tmp_path / "y.keystore"
    key = made(sealed, "secret")
    sealed.chmod(0o644)
    monkeypatch.setenv(passphrases.VARIABLE, "secret")
    assert files.load_or_create(sealed, "y") == key


def test_passphrase_variables(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(b"two\nlines \r\n")
    assert passphrases.from_environment(environ={}) is None
    assert passphrases.from_environment(environ={passphrases.VARIABLE: ""}) == ""
    assert passphrases.from_environment(environ={passphrases.VARIABLE + "_FILE": str(file)}) == "two\nlines "
    with pytest.raises(InvalidInput, match="unset one"):
        passphrases.from_environment(environ={passphrases.VARIABLE: "x", passphrases.VARIABLE + "_FILE": str(file)})
    with pytest.raises(InvalidInput, match="cannot be read"):
        passphrases.from_environment(environ={passphrases.VARIABLE + "_FILE": str(tmp_path)})


def test_a_person_has_five_tries() -> None:
    keystore = Keystore.encrypt(PrivateKey.generate(), "secret", "mine")
    asked: list[str] = []
    answers = iter(["a", "b", "c", "d", "secret"])

    def prompt(text: str) -> str:
        asked.append(text)
        return next(answers)

    passphrases.unlock(keystore, environ={}, prompt=prompt)
    assert asked[0] == "Enter your passphrase (mine): "
    assert asked[4] == "Wrong passphrase, 1 try left (mine): "
    asked.clear()

    def wrong(text: str) -> str:
        asked.append(text)
        return "x"

    with pytest.raises(WrongPassphrase, match="5 times"):
        passphrases.unlock(keystore, environ={}, prompt=wrong)
    assert len(asked) == 5


def test_nobody_is_asked_when_the_passphrase_is_empty_or_given() -> None:
    def prompt(text: str) -> str:
        raise AssertionError(text)

    key = PrivateKey.generate()
    assert passphrases.unlock(Keystore.encrypt(key, ""), environ={}, prompt=prompt) == key
    environ = {passphrases.VARIABLE: "secret"}
    assert passphrases.unlock(Keystore.encrypt(key, "secret"), environ=environ, prompt=prompt) == key
    assert passphrases.unlock(Keystore.encrypt(key, ""), environ=environ, prompt=prompt) == key


def test_a_new_passphrase_is_typed_twice() -> None:
    answers = iter(["a", "b", "c", "c"])
    assert passphrases.choose("x", environ={}, prompt=lambda _: next(answers)) == "c"
    texts = iter(map(str, range(20)))
    with pytest.raises(InvalidInput, match="differed 5 times"):
        passphrases.choose("x", environ={}, prompt=lambda _: next(texts))
    with pytest.raises(passphrases.PassphraseNeeded, match="--empty-passphrase"):
        passphrases.choose("x", environ={}, prompt=None)


async def test_files_work_from_a_coroutine(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.keystore"
    key = await asyncio.to_thread(files.load_or_create, path, "x")
    assert json.loads(path.read_text())["address"] == key.address[2:].lower()
