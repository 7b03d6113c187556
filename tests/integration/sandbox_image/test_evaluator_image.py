# ruff: noqa: E501
"""The image: reproducible, minimal, and working under the lock-down that sandboxes run with."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from orchestrator.worker.limits import SandboxLimits
from orchestrator.worker.lockdown import Lockdown
from sandbox_image import build

pytestmark = pytest.mark.docker

LABEL = "org.dcp-orchestrator.test-of-the-image"


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    return build.ensure(build.DEFAULT_TAG)


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(timeout=30)
    yield client
    client.close()


class Container:
    """A locked-down container and its attached streams."""

    def __init__(self, api: docker.APIClient, memory: int, env: list[str]) -> None:
        body = Lockdown.load().create_body(
            image=build.DEFAULT_TAG, labels={LABEL: "1"}, limits=SandboxLimits(memory_bytes=memory)
        )
        body["Env"] = env
        self._api = api
        self.id = api.create_container_from_config(body)["Id"]
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        self._attached = api.attach_socket(self.id, params=wanted)
        self._socket = self._attached._sock
        self._socket.settimeout(20)
        api.start(self.id)
        self._lines = self._read()

    def _read(self) -> Iterator[str]:
        """Lines of standard output, out of Docker's frames."""
        text = b""
        with self._socket.makefile("rb") as stream:
            while header := stream.read(8):
                chunk = stream.read(struct.unpack(">I", header[4:])[0])
                if header[0] == 1:
                    *lines, text = (text + chunk).split(b"\n")
                    yield from (line.decode() for line in lines)

    def send(self, *values: Any) -> None:
        for value in values:
            contents = {"_serializeVerId": "v9", "what": {"raw": value}}
            self._socket.sendall(json.dumps({"type": "workerMessage", "message": contents}).encode() + b"\n")

    def until(self, *requests: str) -> dict[str, Any]:
        for line in self._lines:
            if line.startswith("MSG:") and (what := json.loads(line[4:]).get("message", {}).get("what")):
                value = what["raw"]["value"]
                if value["request"] in requests:
                    return value
        pytest.fail(f"the container ended before {requests}")

    def run(self, work_function: str, *uris: str) -> list[dict[str, Any]]:
        self.send({"request": "assign", "job": {"id": "j", "workFunction": work_function, "argumentUris": []}})
        self.until("assigned")
        self.send(*({"request": "main", "id": n, "datumUri": uri} for n, uri in enumerate(uris)))
        return [self.until("complete", "workError") for _ in uris]

    def state(self) -> dict[str, Any]:
        """Wait for its end: the state that Docker keeps."""
        self._api.wait(self.id, timeout=20)
        return self._api.inspect_container(self.id)["State"]

    def die(self) -> None:
        self._socket.sendall(b'{"type":"die"}\n')

    def end_input(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def remove(self) -> None:
        self._lines.close()
        self._attached.close()
        self._socket.close()
        with contextlib.suppress(docker.errors.NotFound):
            self._api.remove_container(self.id, force=True)


@pytest.fixture
def container(image, api) -> Iterator[Any]:
    made: list[Container] = []

    def make(memory: int = 256 << 20, env: tuple[str, ...] = ()) -> Container:
        made.append(Container(api, memory, list(env)))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def test_two_builds_have_one_id_and_it_is_the_loaded_one(image):
    assert build.check() == image["id"]


def test_a_second_run_leaves_the_image_alone(image):
    again = build.ensure(build.DEFAULT_TAG)
    assert (again["built"], again["id"]) == (False, image["id"])
    assert again["seconds"] < 1


def test_config_says_who_runs_what(image, api):
    config = api.inspect_image(build.DEFAULT_TAG)["Config"]
    assert config["User"] == "65534:65534"
    assert config["Entrypoint"] == ["/node", *build.flags(), "/host/main.js"]
    assert config["Labels"]["org.dcp-orchestrator.node"] == "22.20.0"
    assert not config.get("Volumes")
    assert not config.get("ExposedPorts")


def test_nothing_but_engine_libraries_program_and_licences(image, api):
    files = set()
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.get_image(build.DEFAULT_TAG)))) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                files |= {member.name for member in inner if not member.isdir()}
    libraries = {name for name in files if name.startswith(("lib/", "lib64/"))}
    assert {name.rpartition("/")[2] for name in libraries} >= {
        "libc.so.6",
        "libm.so.6",
        "libstdc++.so.6",
        "libgcc_s.so.1",
    }
    assert len(libraries) == 7
    assert {name for name in files if name.startswith("licenses/")} >= {
        "licenses/node",
        "licenses/libc6",
        "licenses/dcp-orchestrator",
    }
    others = files - libraries - {name for name in files if name.startswith(("host/", "licenses/"))}
    assert others == {"node"}
    assert {name.rpartition(".")[2] for name in files if name.startswith("host/")} == {"js", "json"}


def test_works_under_the_lock_down(container):
    ends = container().run(
        "async x => { progress(); await new Promise(r => setTimeout(r, 2)); crypto.getRandomValues(new Uint8Array(8));"
        " const m = new WebAssembly.Memory({initial: 2}); return [x * 2, m.buffer.byteLength, new Intl.NumberFormat('de').format(1.5)] }",
        *(f"data:application/json,{n}" for n in range(20)),
    )
    results = [json.loads(end["result"]["string"])["what"]["arr"] for end in ends]
    assert results == [[2 * n, 131072, "1,5"] for n in range(20)]


def test_die_and_end_of_input_are_exit_0(container):
    first, second = container(), container()
    first.until("__sandboxLoaded")
    first.die()
    assert (first.state()["ExitCode"], first.state()["OOMKilled"]) == (0, False)
    second.until("__sandboxLoaded")
    second.end_input()
    assert second.state()["ExitCode"] == 0


def test_memory_bomb_dies_of_the_limit_with_a_clean_cause(container):
    bomb = container(memory=128 << 20)
    bomb.send(
        {
            "request": "assign",
            "job": {
                "id": "j",
                "workFunction": "() => { const kept = []; for (;;) kept.push(new Uint8Array(1 << 20).fill(1)) }",
                "argumentUris": [],
            },
        }
    )
    bomb.until("assigned")
    bomb.send({"request": "main", "id": 1, "datumUri": "data:,"})
    state = bomb.state()
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)


def test_a_heap_limit_near_the_memory_limit_makes_room_for_garbage(container):
    """Without one V8 sizes its heap by the host's memory, and 60 MB of live objects die of a limit of 256 MB."""
    work = """() => {
      const live = [];
      for (let i = 0; i < 655360; i++) live.push({a: i, b: 'x' + i});
      for (let r = 0; r < 60; r++) { const garbage = []; for (let i = 0; i < 100000; i++) garbage.push({a: i, b: [i]}) }
      return live.length;
    }"""
    end = container(env=("NODE_OPTIONS=--max-old-space-size=192",)).run(work, "data:,")[0]
    assert end["request"] == "complete"
