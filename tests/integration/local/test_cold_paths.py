"""`local` and `worker run` where something is missing: one line that says what to do, exit status 1, nothing left."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping

import pytest

COMMAND = pathlib.Path(sys.executable).parent / "dcp-orchestrator"
WORKER = ("worker", "run", "--scheduler", "http://127.0.0.1:1/")
LOCAL = ("local", "--port", "0")


def fail(*arguments: str, state: pathlib.Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must fail; the only line of its stderr."""
    whole = {**os.environ, **(env or {})}
    done = subprocess.run(
        [COMMAND, *arguments, "--state", state], capture_output=True, text=True, timeout=30, env=whole
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    [line] = done.stderr.splitlines()
    return line.removeprefix("dcp-orchestrator: ")


@pytest.mark.parametrize("command", [WORKER, LOCAL], ids=["worker", "local"])
def test_no_docker(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    line = fail(*command, state=tmp_path, env={"DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert line.startswith(f"No Docker Engine answers at unix://{tmp_path}/none. Install it")
    assert line.endswith("[ENODOCKER]")


@pytest.mark.parametrize("command", [WORKER, LOCAL], ids=["worker", "local"])
def test_a_socket_that_nobody_serves(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        line = fail(*command, state=tmp_path, env={"DOCKER_HOST": f"unix://{tmp_path}/s"})
    assert "No Docker Engine answers" in line and "systemctl start docker" in line


@pytest.mark.docker
@pytest.mark.parametrize("command", [WORKER, LOCAL], ids=["worker", "local"])
def test_no_image(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    line = fail(*command, state=tmp_path, env={"DCP_ORCHESTRATOR_WORKER_IMAGE": "no-such-image:ever"})
    assert "has no image no-such-image:ever. Build it with `make image`" in line


def test_the_port_is_taken(tmp_path: pathlib.Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = fail("local", "--port", str(port), state=tmp_path)
    assert f"cannot listen on 127.0.0.1 port {port}" in line and "another --port" in line


@pytest.mark.parametrize("command", [WORKER, LOCAL], ids=["worker", "local"])
def test_settings_that_cannot_be(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    line = fail(*command, state=tmp_path, env={"DCP_ORCHESTRATOR_WORKER_MEMORY_MIB": "3"})
    assert "memory_mib" in line and "greater than or equal to 16" in line


@pytest.mark.parametrize("command", [WORKER, LOCAL], ids=["worker", "local"])
def test_a_state_folder_that_cannot_be(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    line = fail(*command, state=tmp_path / "file" / "state")
    assert str(tmp_path / "file") in line
