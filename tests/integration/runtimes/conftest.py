"""Docker Engines of the tests' own, each with something the machine's has not: another runtime, remapped users…

Each is started once, when the first test wants it. What cannot be had here (no root, no package, no network) is skipped
with the reason, but `DCP_TEST_RUNTIMES=require` makes that a failure.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import pytest

from tests.faults.parts import Engine, free_port

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "dcp-orchestrator" / "trixie"


def cannot(why: str) -> NoReturn:
    if os.environ.get("DCP_TEST_RUNTIMES") == "require":
        pytest.fail(why)
    pytest.skip(why)


def program(name: str) -> str:
    """Of Debian trixie, fetched on demand into a cache outside of the repository."""
    done = subprocess.run(
        [ROOT / "scripts" / "fetch-trixie.sh", CACHE, name], capture_output=True, text=True, timeout=110, check=False
    )
    if done.returncode:
        cannot(f"{name} of Debian trixie cannot be had here: {done.stderr[-300:]}")
    return done.stdout.split()[0]


def installed(name: str) -> str:
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        cannot(f"{name} is not installed: scripts/setup.sh runtimes")
    return path


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        cannot("a Docker Engine of the test's own needs root")


@pytest.fixture(scope="session")
def own_engine() -> Iterator[Callable[..., Engine]]:
    """`own_engine("--userns-remap", "x", runtimes={"crun": {...}})`: a running Engine with the Evaluator image."""
    made: list[Engine] = []

    def start(*options: str, runtimes: dict[str, object] | None = None, before: tuple[str, ...] = ()) -> Engine:
        own = Engine.make()
        made.append(own)
        own.options = list(options)
        own.before = list(before)
        own.folder.chmod(0o711)  # remapped users pass through it
        if runtimes is not None:
            (own.folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
            own.options += ["--config-file", str(own.folder / "daemon.json")]
        own.start()
        own.load_image()
        return own

    yield start
    for own in made:
        own.dispose()


@pytest.fixture(scope="session")
def gvisor(own_engine: Callable[..., Engine]) -> Engine:
    runsc = {"path": program("runsc"), "runtimeArgs": ["--network=none", "--oci-seccomp", "--platform=systrap"]}
    return own_engine(runtimes={"runsc": runsc})


@pytest.fixture(scope="session")
def crun(own_engine: Callable[..., Engine]) -> Engine:
    """In a mount namespace without the unified tree: crun refuses one beside those of version 1."""
    hide = 'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", hide, "sh")
    return own_engine(runtimes={"crun": {"path": installed("crun")}}, before=before)


@pytest.fixture(scope="session")
def remapped(own_engine: Callable[..., Engine]) -> Engine:
    """The Engine makes the user `dockremap` and its range of ids by itself."""
    installed("useradd")
    return own_engine("--userns-remap", "default")


@pytest.fixture(scope="session")
def hanging(own_engine: Callable[..., Engine], tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, pathlib.Path]:
    """An Engine whose runtime `hang` never answers; the file holds the process ids of what hangs."""
    folder = tmp_path_factory.mktemp("hang")
    pids = folder / "pids"
    pids.touch()
    script = folder / "hang"
    script.write_text(f"#!/bin/sh\necho $$ >> {pids}\nexec sleep 600\n")
    script.chmod(0o755)
    return own_engine(runtimes={"hang": {"path": str(script)}}), pids


class RootlessEngine(Engine):
    """`dockerd-rootless.sh` as an ordinary user, on the network of the host (there is no need for another)."""

    USER: Final = "dcprootless"
    SCRIPT: Final = "/usr/share/docker.io/contrib/dockerd-rootless.sh"

    def start(self) -> None:
        shutil.chown(self.folder, self.USER)
        run = self.folder / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(run, self.USER)
        environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(run), "XDG_RUNTIME_DIR": str(run),
            "DOCKERD_ROOTLESS_ROOTLESSKIT_NET": "host", "DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER": "none",
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU": "0",
        }  # fmt: skip
        command = [
            "setpriv", f"--reuid={self.USER}", f"--regid={self.USER}", "--init-groups", "sh", self.SCRIPT,
            "--host", self.host, "--data-root", str(self.folder / "data"), "--exec-root", str(run / "exec"),
            "--pidfile", str(run / "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false",
        ]  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self.wait_until_up()


@pytest.fixture(scope="session")
def rootless() -> Iterator[RootlessEngine]:
    for name in ("rootlesskit", "newuidmap", "setpriv", "useradd"):
        installed(name)
    if not pathlib.Path(RootlessEngine.SCRIPT).exists():
        cannot(f"{RootlessEngine.SCRIPT} is not there")
    if subprocess.run(["id", RootlessEngine.USER], capture_output=True, check=False).returncode:
        # An ordinary user of the tests' own; useradd gives it a range of subordinate ids.
        subprocess.run(["useradd", "--create-home", "--shell", "/usr/sbin/nologin", RootlessEngine.USER], check=True)
    own = RootlessEngine.make()
    assert isinstance(own, RootlessEngine)
    try:
        try:
            own.start()
        except AssertionError as error:
            cannot(f"a rootless Engine does not start here: {error}")
        own.load_image()
        yield own
    finally:
        own.dispose()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of Debian's docker-registry on loopback, where Docker and cosign do without TLS."""
    binary, folder = program("docker-registry"), tmp_path_factory.mktemp("registry")
    port = free_port()
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        "log: {level: warn}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)  # it announces itself in no other way
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


class Cosign:
    """The real program, without a network but that to the registry: a key pair per name, no transparency log."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._binary = program("cosign")
        self._env = {**os.environ, "COSIGN_PASSWORD": "", "HOME": str(folder), "DOCKER_CONFIG": str(folder)}

    def key(self, name: str) -> pathlib.Path:
        """The public key; made when missing."""
        public = self.folder / f"{name}.pub"
        if not public.exists():
            self._run("generate-key-pair", f"--output-key-prefix={name}")
        return public

    def sign(self, name: str, image: str) -> None:
        self.key(name)
        self._run("sign", "--key", f"{name}.key", "--tlog-upload=false", "--allow-insecure-registry", "--yes", image)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary, *arguments], cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    return Cosign(tmp_path_factory.mktemp("cosign"))
