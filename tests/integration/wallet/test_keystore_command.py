"""`dcp-orchestrator keystore` as a process: what it prints, what it refuses, and how it asks at a terminal."""

import json
import os
import pathlib
import pty
import select
import subprocess
import sys
from collections.abc import Sequence

import pytest

from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey

COMMAND = [sys.executable, "-c", "from orchestrator.cli.main import main; main()", "keystore"]
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


def environment(tmp_path: pathlib.Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DCP_RESOURCE_DIR": str(tmp_path), **more}


def run(tmp_path: pathlib.Path, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(tmp_path, **more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def converse(tmp_path: pathlib.Path, arguments: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Run at a terminal; when a text of `answers` appears, type what goes with it. The exit status and the screen."""
    terminal, theirs = pty.openpty()
    command = [*COMMAND, *arguments]
    process = subprocess.Popen(
        command, env=environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    screen, seen, waiting = "", 0, list(answers)
    try:
        while True:
            readable, _, _ = select.select([terminal], [], [], 60)
            assert readable, f"nothing happens after: {screen}"
            try:
                screen += os.read(terminal, 4096).decode()
            except OSError:  # Linux's way to say that the other side is closed
                break
            while waiting and waiting[0][0] in screen[seen:]:
                text, answer = waiting.pop(0)
                seen = screen.index(text, seen) + len(text)
                os.write(terminal, answer.encode() + b"\n")
    finally:
        os.close(terminal)
        status = process.wait(timeout=60)
    return status, screen


def test_new_show_passwd(tmp_path: pathlib.Path) -> None:
    made = json.loads(run(tmp_path, "new", "id", "--empty-passphrase", "--output", "json").stdout)
    path = tmp_path / "id.keystore"
    assert made["file"] == str(path)
    assert made["kdf"] == {"name": "scrypt", "n": 1024, "r": 8, "p": 1}
    shown = run(tmp_path, "show", "id")
    assert made["address"] in shown.stdout
    assert shown.stderr == ""
    assert run(tmp_path, "passwd", "id", DCP_ORCHESTRATOR_NEW_PASSPHRASE="x").returncode == 0
    assert files.load(path).unlock_blocking("x").address == made["address"]


def test_an_existing_file_is_kept_unless_forced(tmp_path: pathlib.Path) -> None:
    run(tmp_path, "new", "--empty-passphrase")
    before = (tmp_path / "default.keystore").read_text()
    refused = run(tmp_path, "new", "--empty-passphrase")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert (tmp_path / "default.keystore").read_text() == before
    assert run(tmp_path, "new", "--empty-passphrase", "--force").returncode == 0
    assert (tmp_path / "default.keystore").read_text() != before


def test_a_given_private_key(tmp_path: pathlib.Path) -> None:
    answer = run(tmp_path, "new", "--private-key-file", "-", "--empty-passphrase", stdin=SECRET + "\n")
    assert PrivateKey.from_hex(SECRET).address in answer.stdout
    assert f"0x{SECRET}" in run(tmp_path, "show", "--private-key").stdout
    assert SECRET not in run(tmp_path, "show").stdout
    wrong = run(tmp_path, "new", "x", "--private-key-file", "-", "--empty-passphrase", stdin=SECRET + "0")
    assert (wrong.returncode, SECRET in wrong.stderr) == (1, False)
    assert "64 hex digits" in wrong.stderr


@pytest.mark.parametrize(
    ("prepare", "arguments", "says"),
    [
        (None, ["show"], "make one (dcp-orchestrator keystore new default)"),
        (None, ["new"], "there is no terminal to ask for it: set DCP_ORCHESTRATOR_PASSPHRASE"),
        ("{", ["show"], "not a keystore: not JSON"),
        ('{"version": 1}', ["show"], "version is 1, but only version 3"),
        ("secret", ["show", "--private-key"], "has a passphrase and there is no terminal to ask for it"),
        ("secret", ["passwd", "--empty-passphrase"], "or DCP_ORCHESTRATOR_PASSPHRASE_FILE"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: pathlib.Path, prepare: str | None, arguments: list[str], says: str
) -> None:
    path = tmp_path / "default.keystore"
    if prepare == "secret":
        run(tmp_path, "new", DCP_ORCHESTRATOR_PASSPHRASE="secret")
    elif prepare is not None:
        path.write_text(prepare)
        path.chmod(0o600)
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_wrong_passphrase_in_the_environment(tmp_path: pathlib.Path) -> None:
    (tmp_path / "passphrase").write_text("secret\n")
    file = str(tmp_path / "passphrase")
    run(tmp_path, "new", DCP_ORCHESTRATOR_PASSPHRASE="secret")
    wrong = run(tmp_path, "show", "--private-key", DCP_ORCHESTRATOR_PASSPHRASE="other")
    assert wrong.returncode == 1
    assert "wrong passphrase for keystore default" in wrong.stderr
    right = run(tmp_path, "show", "--private-key", DCP_ORCHESTRATOR_PASSPHRASE_FILE=file)
    assert "privateKey" in right.stdout


def test_a_file_that_others_may_read_is_said_to_be(tmp_path: pathlib.Path) -> None:
    run(tmp_path, "new", "--empty-passphrase")
    path = tmp_path / "default.keystore"
    path.chmod(0o644)
    shown = run(tmp_path, "show", "--output", "json")
    assert json.loads(shown.stdout)["file"] == str(path)
    expected = (
        f"dcp-orchestrator: warning: keystore file {path} can be read by every user of this machine: chmod 600 {path}\n"
    )
    assert shown.stderr == expected


def test_a_person_is_asked_at_a_terminal(tmp_path: pathlib.Path) -> None:
    asked = [
        ("(empty for none): ", "secret"),
        ("again: ", "typo"),
        ("(empty for none): ", "secret"),
        ("again: ", "secret"),
    ]
    status, screen = converse(tmp_path, ["new"], asked)
    assert status == 0, screen
    assert "secret" not in screen
    tries = [("Enter your passphrase (default): ", "wrong"), ("4 tries left (default): ", "secret")]
    status, screen = converse(tmp_path, ["show", "--private-key"], tries)
    assert status == 0, screen
    key = files.load(tmp_path / "default.keystore").unlock_blocking("secret")
    assert key.to_hex() in screen


def test_five_wrong_answers_end_it(tmp_path: pathlib.Path) -> None:
    run(tmp_path, "new", DCP_ORCHESTRATOR_PASSPHRASE="secret")
    tries = [("(default): ", "no")] * 9
    status, screen = converse(tmp_path, ["show", "--private-key"], tries)
    assert status == 1
    assert screen.count("(default): ") == 5
    assert "wrong passphrase for keystore default, 5 times" in screen


def test_help() -> None:
    for arguments in (["--help"], ["new", "--help"], ["show", "--help"], ["passwd", "--help"]):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=True)
        assert "DCP_RESOURCE_DIR" in done.stdout
