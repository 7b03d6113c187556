"""The command, against this machine's Engine, a real Scheduler, and their absence."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e import harness

pytestmark = pytest.mark.docker


def doctor(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli.main import main; main()", "doctor", *arguments],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def checks(text: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(text)["checks"]}


async def test_a_sound_machine(tmp_path: pathlib.Path) -> None:
    import asyncio

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", str(port), "--state", str(tmp_path / "s"), log=tmp_path / "log"
    )
    try:
        await scheduler.wait_for_line("ready ")
        code, text = await asyncio.to_thread(
            doctor, "--scheduler", f"http://127.0.0.1:{port}/", "--state", str(tmp_path / "w"), "--output", "json"
        )
    finally:
        await scheduler.stop()
    found = checks(text)
    failing = {name: one for name, one in found.items() if one["status"] == "fail"}
    assert (code, failing) == (0, {})
    for name in (
        "docker engine",
        "image",
        "sandbox",
        "metering",
        "scheduler",
        "protocol",
        "session",
        "scheduler key",
        "clock",
        "limits",
    ):
        assert found[name]["status"] == "ok", found[name]
    for one in found.values():
        assert bool(one["remedy"]) is (one["status"] in ("warn", "fail")), one
    assert not (tmp_path / "w").exists(), "looking must not make anything"


async def test_a_scheduler_that_has_another_key_than_before(tmp_path: pathlib.Path) -> None:
    import asyncio

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = "0x" + "1" * 40
    known = tmp_path / "w" / "identity-cache.json"
    known.parent.mkdir()
    known.write_text(json.dumps({f"http://127.0.0.1:{port}/taskDistributor/": before}))
    arguments = (
        "--scheduler",
        f"http://127.0.0.1:{port}/",
        "--state",
        str(known.parent),
        "--quick",
        "--output",
        "json",
    )
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", str(port), "--state", str(tmp_path / "s"), log=tmp_path / "log"
    )
    try:
        await scheduler.wait_for_line("ready ")
        code, text = await asyncio.to_thread(doctor, *arguments)
        told = checks(text)["scheduler key"]
        now = told["remedy"].split("--accept-scheduler-key ")[1][:42]
        _, accepted = await asyncio.to_thread(doctor, *arguments, "--accept-scheduler-key", now)
        known.write_text("no JSON")
        _, damaged = await asyncio.to_thread(doctor, *arguments)
    finally:
        await scheduler.stop()
    assert code == 1 and told["status"] == "fail" and before in told["found"] and now in told["found"]
    assert checks(accepted)["scheduler key"]["status"] == "ok"
    assert checks(damaged)["scheduler key"]["status"] == "fail"
    assert str(known) in checks(damaged)["scheduler key"]["found"]


def test_nothing_is_there(tmp_path: pathlib.Path) -> None:
    code, text = doctor(
        "--docker-host", f"unix://{tmp_path}/none.sock", "--scheduler", "http://127.0.0.1:9/", "--output", "json"
    )
    found = checks(text)
    assert code == 1
    assert found["docker engine"]["status"] == found["scheduler"]["status"] == "fail"
    assert found["sandbox"]["status"] == found["image"]["status"] == found["clock"]["status"] == "skip"
    assert "systemctl start docker" in found["docker engine"]["remedy"]


def test_an_image_that_is_not_the_pinned_one_and_a_runtime_that_is_not_there(tmp_path: pathlib.Path) -> None:
    wrong = "sha256:" + "0" * 64
    code, text = doctor("--image-digest", wrong, "--oci-runtime", "nosuch", "--quick")
    assert code == 1
    assert wrong in text
    assert "the Engine has no runtime nosuch" in text
    assert "→" in text


def test_an_engine_that_never_answers(tmp_path: pathlib.Path) -> None:
    """It accepts connections and says nothing: told within the limit of a call."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        code, text = doctor("--docker-host", f"unix://{tmp_path}/mute.sock", "--output", "json")
    assert code == 1
    assert "did not answer" in checks(text)["docker engine"]["found"]
