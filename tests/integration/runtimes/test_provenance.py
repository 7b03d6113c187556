"""An image pushed to a real registry and signed by the real cosign: pinned, vouched for, and refused when it is not."""

from __future__ import annotations

import json
import pathlib
import secrets
from collections.abc import Callable, Iterator

import aiohttp
import docker
import pytest

from orchestrator.settings import WorkerSettings
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings, RuntimeUnavailable
from orchestrator.worker.doctor import Status, examine
from orchestrator.worker.provenance import NotSigned, trust, verify
from orchestrator.worker.service import Worker
from tests.integration.runtimes.conftest import Cosign

pytestmark = pytest.mark.docker

IMAGE = "dcp-evaluator:local"
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def pushed(registry: str) -> Iterator[Callable[[], tuple[str, str]]]:
    """`pushed()`: (name, name@digest) of the Evaluator image in a repository of its own."""
    client = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    names: list[str] = []

    def push() -> tuple[str, str]:
        name = f"{registry}/dcp/{secrets.token_hex(4)}"
        client.images.get(IMAGE).tag(name, "1")
        names.append(f"{name}:1")
        for line in client.api.push(name, "1", stream=True, decode=True):
            assert "error" not in line, line
        [digest] = [one for one in client.images.get(f"{name}:1").attrs["RepoDigests"] if one.startswith(f"{name}@")]
        return f"{name}:1", digest

    yield push
    for name in names:
        client.images.remove(name)
        for digest in client.images.get(IMAGE).attrs["RepoDigests"]:
            if digest.startswith(name.rpartition(":")[0] + "@"):
                client.images.remove(digest)
    client.close()


async def test_an_image_is_pinned_by_its_digest_in_a_registry(pushed: Callable[[], tuple[str, str]]) -> None:
    name, full = pushed()
    digest = full.rpartition("@")[2]
    for settings in (RuntimeSettings(image=full), RuntimeSettings(image=name, image_digest=digest)):
        async with DockerRuntime("test-pinned", settings) as runtime:
            assert runtime.image_digest == runtime.statistics()["image_digest"] == digest
            assert runtime.image_id != digest
    with pytest.raises(RuntimeUnavailable) as refusal:
        async with DockerRuntime("test-pinned", RuntimeSettings(image=name, image_digest="sha256:" + "0" * 64)):
            pass
    assert refusal.value.reason == "image-differs"
    assert digest in refusal.value.message


async def test_what_cosign_signed_is_vouched_for_and_nothing_else(
    pushed: Callable[[], tuple[str, str]], cosign: Cosign, tmp_path: pathlib.Path
) -> None:
    _name, full = pushed()
    key = cosign.key("ours")
    with pytest.raises(NotSigned, match="no cosign signature"):
        await verify(key, [full])
    cosign.sign("theirs", full)
    with pytest.raises(NotSigned, match="another key"):
        await verify(key, [full])
    cosign.sign("ours", full)  # a second signature beside the first
    assert await verify(key, [full]) == full
    assert await verify(cosign.key("theirs"), [full]) == full
    with pytest.raises(NotSigned, match="from no registry"):
        await verify(key, [])


async def test_a_signature_moved_to_another_image_is_refused(
    pushed: Callable[[], tuple[str, str]], cosign: Cosign, registry: str
) -> None:
    """A registry that lies: it has our signature of one image under the name of another."""
    _name, full = pushed()
    cosign.sign("ours", full)
    repository, _, digest = full.removeprefix(registry + "/").partition("@")
    forged = "sha256:" + "f" * 64
    base = f"http://{registry}/v2/{repository}/manifests/"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    async with aiohttp.ClientSession() as http:
        async with http.get(base + digest.replace(":", "-") + ".sig", headers=accept) as response:
            manifest, kind = await response.read(), response.content_type
        assert json.loads(manifest)["layers"]
        async with http.put(
            base + forged.replace(":", "-") + ".sig", data=manifest, headers={"Content-Type": kind}
        ) as response:
            assert response.status == 201
    with pytest.raises(NotSigned, match=f"the signature is about {digest}"):
        await verify(cosign.key("ours"), [f"{registry}/{repository}@{forged}"])


async def test_the_worker_runs_no_image_for_which_nobody_vouches(
    pushed: Callable[[], tuple[str, str]], cosign: Cosign, tmp_path: pathlib.Path
) -> None:
    name, full = pushed()
    digest = full.rpartition("@")[2]
    settings = WorkerSettings(
        image=name, image_digest=digest, image_public_key=cosign.key("ours"), state_dir=tmp_path, scheduler_url=NOWHERE,
        sandboxes=1, warm=0,
    )  # fmt: skip
    with pytest.raises(RuntimeUnavailable) as refusal:
        await Worker(settings).run()
    assert refusal.value.reason == "image-unsigned"
    assert "cosign sign" in refusal.value.remedy
    told = {check.name: check for check in (await examine(settings)).checks}
    assert told["image signature"].status is Status.FAIL
    assert told["sandbox"].status is Status.SKIP

    cosign.sign("ours", full)
    worker = Worker(settings)
    worker.stop()  # as soon as it has started: there is no Scheduler
    await worker.run()
    told = {check.name: check for check in (await examine(settings, quick=True)).checks}
    assert told["image signature"].status is Status.OK
    assert full in told["image signature"].found


async def test_after_its_first_use_the_registry_may_be_away(
    pushed: Callable[[], tuple[str, str]], cosign: Cosign, tmp_path: pathlib.Path
) -> None:
    _name, full = pushed()
    cosign.sign("ours", full)
    images = trust.TrustedImages(tmp_path)
    away = ["127.0.0.1:9/e@" + full.rpartition("@")[2]]
    with pytest.raises(RuntimeUnavailable, match="cannot be reached"):
        await trust.insist("e", "sha256:1", away, cosign.key("ours"), images)
    assert await trust.insist("e", "sha256:1", [full], cosign.key("ours"), images) == full
    assert await trust.insist("e", "sha256:1", away, cosign.key("ours"), images) == full
    with pytest.raises(RuntimeUnavailable):
        await trust.insist("e", "sha256:1", away, cosign.key("theirs"), images)
