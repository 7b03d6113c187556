"""Keys, claims and names; against real cosign see tests/integration/runtimes."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS

from orchestrator.errors import InvalidInput
from orchestrator.worker.provenance import cosign, reference, trust
from orchestrator.worker.provenance.cosign import Claim, NotSigned, PublicKey
from orchestrator.worker.provenance.registry import credentials

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
PRIVATE = ECC.generate(curve="P-256")
KEY = PublicKey.parse(PRIVATE.public_key().export_key(format="PEM"))


def payload(digest: str = DIGEST, kind: str = "cosign container image signature") -> bytes:
    image = {"docker-manifest-digest": digest}
    return json.dumps({"critical": {"identity": {}, "image": image, "type": kind}, "optional": None}).encode()


def claim(content: bytes, by: Any = PRIVATE) -> Claim:
    raw = DSS.new(by, "fips-186-3", encoding="der").sign(SHA256.new(content))
    return Claim(content, base64.b64encode(raw).decode())


def test_a_claim_of_the_key_about_the_digest_is_enough() -> None:
    cosign.check([claim(payload())], KEY, DIGEST)
    foreign = claim(payload(), ECC.generate(curve="P-256"))
    cosign.check([foreign, claim(payload(OTHER)), claim(payload())], KEY, DIGEST)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([], "nobody signed"),
        ([claim(payload(OTHER))], f"about {OTHER}"),
        ([claim(payload(kind="something else"))], "about something else"),
        ([claim(b"[]")], "about something else"),
        ([claim(payload(), ECC.generate(curve="P-256"))], "another key"),
        ([Claim(payload() + b" ", claim(payload()).signature)], "changed"),
        ([Claim(payload(), "not base64!")], "changed"),
        ([Claim(payload(), "")], "changed"),
    ],
)
def test_anything_else_is_not(claims: list[Claim], words: str) -> None:
    with pytest.raises(NotSigned, match=words):
        cosign.check(claims, KEY, DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", PRIVATE.export_key(format="PEM"),
        ECC.generate(curve="P-384").public_key().export_key(format="PEM"),
        ECC.generate(curve="Ed25519").public_key().export_key(format="PEM"),
    ],
)  # fmt: skip
def test_what_is_no_cosign_public_key(text: str) -> None:
    with pytest.raises(InvalidInput, match="image_public_key"):
        PublicKey.parse(text)


def test_a_key_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        PublicKey.read(tmp_path / "none.pub")


@pytest.mark.parametrize(
    "manifest", [{}, {"layers": 3}, {"layers": [3, {}, {"mediaType": cosign.PAYLOAD_TYPE, "annotations": 7}]}]
)
def test_a_manifest_without_claims(manifest: dict[str, Any]) -> None:
    assert cosign.claims_in(manifest) == []


@pytest.mark.parametrize(
    ("text", "registry", "name", "url"),
    [
        ("127.0.0.1:5000/dcp/e", "127.0.0.1:5000", "dcp/e", "http://127.0.0.1:5000/v2/dcp/e"),
        ("localhost/e", "localhost", "e", "http://localhost/v2/e"),
        ("[::1]:5000/e", "[::1]:5000", "e", "http://[::1]:5000/v2/e"),
        ("ghcr.io/a/b", "ghcr.io", "a/b", "https://ghcr.io/v2/a/b"),
        ("127.0.0.1.example.org/e", "127.0.0.1.example.org", "e", "https://127.0.0.1.example.org/v2/e"),
        ("alpine", "docker.io", "library/alpine", "https://registry-1.docker.io/v2/library/alpine"),
        ("a/b", "docker.io", "a/b", "https://registry-1.docker.io/v2/a/b"),
    ],
)
def test_where_an_image_lies(text: str, registry: str, name: str, url: str) -> None:
    found = reference.parse(f"{text}@{DIGEST}")
    assert (found.registry, found.name, found.digest, found.base_url) == (registry, name, DIGEST, url)
    assert found.signature_tag == "sha256-" + "a" * 64 + ".sig"


@pytest.mark.parametrize(
    "text", ["e", "e@sha256:1", f"../e@{DIGEST}", f"h.x/E@{DIGEST}", f"h.x/a?b@{DIGEST}", f"@{DIGEST}"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        reference.parse(text)


def test_credentials_of_docker_login(tmp_path: pathlib.Path) -> None:
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    assert credentials("ghcr.io", environ) is None
    auth = base64.b64encode(b"me:pass:word").decode()
    hub = base64.b64encode(b"hub:x").decode()
    config = {"auths": {"ghcr.io": {"auth": auth}, "https://index.docker.io/v1/": {"auth": hub}, "empty.io": {}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert credentials("ghcr.io", environ) == ("me", "pass:word")
    assert credentials("docker.io", environ) == ("hub", "x")
    assert credentials("empty.io", environ) is None
    (tmp_path / "config.json").write_text("[")
    assert credentials("ghcr.io", environ) is None


def test_trusted_images_are_remembered_with_their_key(tmp_path: pathlib.Path) -> None:
    images = trust.TrustedImages(tmp_path)
    assert images.find("key", DIGEST) is None
    images.remember("key", DIGEST, "h/e")
    assert trust.TrustedImages(tmp_path).find("key", DIGEST) == "h/e"
    assert images.find("other", DIGEST) is None and images.find("key", OTHER) is None
    (tmp_path / trust.FILE).write_text("{")
    assert images.find("key", DIGEST) is None
