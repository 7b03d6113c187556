"""Two streams of tests: each begins at its own end, files stay together, and a stream that dies costs one test."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CONFTEST = """
import time
import pytest
from tests.streams import Streams

@pytest.hookimpl
def pytest_xdist_make_scheduler(config, log):
    return Streams(config, log)

@pytest.fixture(autouse=True)
def told(request, worker_id):
    with open(request.config.rootpath / worker_id, "a") as out:
        out.write(request.node.nodeid + "\\n")
    time.sleep(0.02)  # so that neither stream can be through before the other has begun
"""
FILE = "def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass\n"


def run(folder: pathlib.Path, ends_in: str) -> dict[str, list[str]]:
    """By stream, which tests it began. In one file a test ends the process before the others."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    for name in "abcdefgh":
        (folder / f"test_{name}.py").write_text(FILE)
    (folder / f"{ends_in}.py").write_text(f"import os\ndef test_0(): os._exit(1)\n{FILE}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(folder)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert re.search(r"1 failed, 24 passed", done.stdout), done.stdout + done.stderr
    assert f"{ends_in}.py::test_0" in done.stdout
    told = {path.name: path.read_text().split() for path in folder.glob("gw*")}
    ran = [line for lines in told.values() for line in lines]
    assert len(ran) == len(set(ran)) == 25
    return told


def test_streams(tmp_path: pathlib.Path) -> None:
    told = run(tmp_path, "test_a")
    assert told["gw0"] == ["test_a.py::test_0"]
    assert told["gw1"][:3] == [f"test_h.py::test_{i}" for i in (1, 2, 3)]


def test_what_a_stream_had_done_before_it_died_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    told = run(tmp_path, "test_e")
    assert told["gw1"][-1] == "test_e.py::test_0"
