"""What can be wrong with Docker, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import Fault, OrchestratorError


class RuntimeUnavailable(OrchestratorError):
    """Docker cannot be used now. `reason` is a stable word, `remedy` a sentence for the operator.

    Reasons: missing (nothing listens), forbidden (no permission), refusing (answers with an error), too-old,
    unsupported (an address we cannot use), silent (no answer in time), gone (went away in the middle of something),
    image-missing, image-differs, image-unsigned, runtime-missing, unlimited.
    """

    code = "ENODOCKER"
    fault = Fault.WORKER
    retryable = True

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}. {remedy}", info={"reason": reason, "remedy": remedy})
        self.reason = reason
        self.remedy = remedy


class ContainerGone(OrchestratorError):
    """Docker does not know this container (any more)."""

    code = "ENOCONTAINER"
    fault = Fault.WORKER
    retryable = True


class ContainerRefused(OrchestratorError):
    """Docker answered, but would not do this: a bad create body, a runtime that fails to start the container."""

    code = "ECONTAINER"
    fault = Fault.WORKER
    retryable = True


def missing(address: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "missing",
        f"No Docker Engine answers at {address}",
        "Install it (`apt-get install docker.io`, or https://docs.docker.com/engine/install/) and start it "
        "(`systemctl start docker`), or point DOCKER_HOST at a running one.",
    )


def forbidden(address: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "forbidden",
        f"This user may not talk to the Docker Engine at {address}",
        "Add the user to the docker group (`usermod -aG docker $USER`, then log in again), or use rootless Docker.",
    )


def too_old(version: str, api: str, floor: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "too-old",
        f"Docker Engine {version} speaks API {api}, and the lock-down needs {floor}",
        "Upgrade to Docker Engine 20.10 or later.",
    )


def unsupported(address: str, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "unsupported",
        f"DOCKER_HOST is {address}: {why}",
        "Use unix:///path, tcp://host:port, or tcp:// with DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH.",
    )


def refusing(detail: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "refusing",
        f"The Docker Engine refuses: {detail}",
        "See its log (`journalctl -u docker`); restarting it (`systemctl restart docker`) loses no accepted result.",
    )


def silent(operation: str, seconds: float) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "silent",
        f"The Docker Engine did not answer `{operation}` within {seconds:g} s",
        "Look at the machine's load and the Engine's log; restart the Engine if it hangs.",
    )


def gone(detail: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "gone",
        f"The connection to the Docker Engine broke: {detail}",
        "Work resumes by itself when the Engine is back (`systemctl start docker`).",
    )


def image_missing(image: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "image-missing",
        f"The Docker Engine has no image {image}",
        "Build it with `make image`, or name another one in the worker's settings.",
    )


def image_differs(image: str, pin: str, digests: Sequence[str]) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "image-differs",
        f"The image {image} is {', '.join(digests)}, and the settings pin it to {pin}",
        "Get the image that was meant (`docker pull NAME@sha256:…`, `docker load`), or change image_digest if you "
        "trust the one that is here.",
    )


def image_unsigned(image: str, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "image-unsigned",
        f"The image {image} is not vouched for by image_public_key: {why}",
        "Sign it (`cosign sign --key KEY IMAGE@DIGEST`), pull the one that is signed, or correct image_public_key.",
    )


def unlimited(absent: Sequence[str]) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "unlimited",
        f"The Docker Engine cannot limit {', '.join(absent)} of a sandbox",
        "For a rootless Engine use cgroup v2 with delegated controllers (docs/isolation.md); --no-require-limits works "
        "without, where every job is trusted not to take the whole machine.",
    )
