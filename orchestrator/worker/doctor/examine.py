"""All checks, in the order in which a person would look."""

from __future__ import annotations

import asyncio
import pathlib
import platform
from typing import Final

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.exporting.metrics_server import parse_listen
from orchestrator.settings import WorkerSettings
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import image_pin, sizes
from orchestrator.worker.docker_runtime import RuntimeSettings, RuntimeUnavailable, engine_facts, failures
from orchestrator.worker.docker_runtime.engine_facts import Component, EngineFacts
from orchestrator.worker.doctor import advisories, check, engine, machine, packages, sandbox, scheduler
from orchestrator.worker.doctor.check import Check, Examination, Status
from orchestrator.worker.effective_limits import effective_limits
from orchestrator.worker.limit_settings import kernel_limits
from orchestrator.worker.provenance import verify

_ENGINE_TIMEOUT_S: Final = 10.0


async def examine(settings: WorkerSettings, *, quick: bool = False) -> Examination:
    """Judge this machine for a Worker with these settings; `quick` starts no sandbox.

    Makes nothing that stays: no folder, no keystore, no container. Never raises but when cancelled; takes seconds, a
    minute and a half at most.
    """
    wrong: list[Check] = []
    try:
        sandboxes, warm = sandboxes_of(settings)
    except InvalidInput as error:
        sandboxes, warm = 1, 0
        wrong = [check.fail("settings", error.message, "numbers that agree", "Change one of the two.")]
    async with TaskGroup() as group:
        docker = group.create_task(_docker(settings, sandboxes, warm, quick=quick))
        ours = group.create_task(asyncio.to_thread(_ours, settings, sandboxes + warm))
        identities = settings.state_dir / "identity-cache.json"
        network = group.create_task(
            scheduler.examine(settings.scheduler_url, identities, settings.accept_scheduler_key)
        )
    return Examination([*wrong, *docker.result(), *ours.result(), *network.result()])


def runtime_settings(settings: WorkerSettings) -> RuntimeSettings:
    return RuntimeSettings(
        image=settings.image,
        image_digest=settings.image_digest,
        require_limits=settings.require_limits,
        docker_host=settings.docker_host,
        runtime=settings.oci_runtime,
        limits=kernel_limits(settings),
    )


def sandboxes_of(settings: WorkerSettings) -> tuple[int, int]:
    """At work, and warm beyond those. Raises `InvalidInput`."""
    capacity, most = sizes.sandboxes(settings)
    pool = sizes.pool_settings(settings, capacity, most)
    return capacity, pool.warm_least if pool.warm is None else pool.warm


async def _docker(settings: WorkerSettings, sandboxes: int, warm: int, *, quick: bool) -> list[Check]:
    try:
        facts = await engine_facts.gather(settings.docker_host, settings.image, _ENGINE_TIMEOUT_S)
    except RuntimeUnavailable as error:
        why = "no Docker Engine to ask"
        return [
            engine.judge_failure(error),
            *engine.skipped(why),
            check.skip("sandbox", why),
            check.skip("metering", why),
        ]
    judged = [
        engine.judge_engine(facts),
        *await _components(facts, settings),
        *_judge_engine(facts, settings, sandboxes, warm),
        *await _signature(facts, settings),
    ]
    if quick:
        trial = [check.skip(name, "--quick starts no sandbox") for name in ("sandbox", "metering")]
    elif any(
        one.status is Status.FAIL and one.name in ("image", "image signature", "runtime", "cgroups", "limits")
        for one in judged
    ):
        trial = [check.skip(name, "nothing to start one of") for name in ("sandbox", "metering")]
    else:
        trial = await sandbox.examine(runtime_settings(settings))
    return [*judged, *trial]


def _judge_engine(facts: EngineFacts, settings: WorkerSettings, sandboxes: int, warm: int) -> list[Check]:
    level = engine.level_of(facts, settings.oci_runtime)
    limits = effective_limits(facts)
    try:
        image = engine.judge_image(facts, settings.image, image_pin.pin_of(settings.image, settings.image_digest))
    except InvalidInput as error:
        image = check.fail(
            "image", error.message, "sha256: and 64 hexadecimal digits", "Correct image or image_digest."
        )
    return [
        engine.judge_runtime(facts, settings.oci_runtime),
        engine.judge_cgroups(facts, required=settings.require_limits),
        engine.judge_limits(limits, required=settings.require_limits),
        engine.judge_figures(limits),
        engine.judge_seccomp(facts),
        engine.judge_lsm(facts),
        engine.judge_user_namespaces(facts, level),
        image,
        engine.judge_memory(facts, sandboxes=sandboxes, warm=warm, memory_mib=settings.memory_mib),
        engine.judge_cores(facts, sandboxes=sandboxes, cpus=settings.cpus),
        machine.inotify(facts.info.cgroup_version, sandboxes + warm),
        _docker_disk(facts),
    ]


async def _signature(facts: EngineFacts, settings: WorkerSettings) -> list[Check]:
    """Asks the registry each time: what was right at the first use may be withdrawn."""
    name, key = "image signature", settings.image_public_key
    if facts.image is None or key is None:
        return []
    wanted = f"a cosign signature by the key {key}"
    try:
        pin = image_pin.pin_of(settings.image, settings.image_digest)
        signed = await verify(key, facts.image.repo_digests, pin)
    except InvalidInput as error:
        return [check.fail(name, error.message, wanted, "Give the public key that the image was signed with.")]
    except (OrchestratorError, TimeoutError) as error:
        why = error.message if isinstance(error, OrchestratorError) else "its registry did not answer in time"
        return [check.fail(name, why, wanted, failures.image_unsigned(settings.image, why).remedy)]
    return [check.ok(name, signed, wanted)]


async def _components(facts: EngineFacts, settings: WorkerSettings) -> list[Check]:
    runtime = settings.oci_runtime or facts.info.default_runtime
    judged = []
    for program in advisories.ADVISORIES:
        if program == "runc" and "runc" not in runtime:
            judged.append(check.skip(program, f"sandboxes run under {runtime}"))
            continue
        said = facts.components.get(program, Component("", ""))
        package = await packages.owner_of(program) if facts.local else None
        judged.append(advisories.judge_component(program, said.version, said.commit, package))
    return judged


def _docker_disk(facts: EngineFacts) -> Check:
    name, root = "docker disk", pathlib.Path(facts.root_dir)
    if not facts.local or not facts.root_dir:
        return check.skip(name, "the Engine is not on this machine")
    try:
        if not root.exists():
            return check.skip(name, f"{root} is not here: the Engine runs in another mount namespace")
    except OSError as error:
        return check.skip(name, f"{root} cannot be asked: {error.strerror}")
    return machine.disk(name, root, least=256 * machine.MIB, enough=2 * machine.GIB)


def _ours(settings: WorkerSettings, sandboxes: int) -> list[Check]:
    damaged = machine.worker_id(settings.state_dir)
    return [
        check.ok("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}", "Linux"),
        machine.descriptors(sandboxes),
        machine.state_folder(settings.state_dir),
        machine.disk("state disk", settings.state_dir.absolute(), least=64 * machine.MIB, enough=machine.GIB),
        machine.keystore(settings.state_dir, settings.identity, settings.payment_address),
        *([] if damaged is None else [damaged]),
        machine.control(settings.state_dir),
        *_ports(settings),
    ]


def _ports(settings: WorkerSettings) -> list[Check]:
    if settings.metrics_listen is None:
        return []
    try:
        return [machine.port("metrics port", *parse_listen(settings.metrics_listen))]
    except InvalidInput as error:
        return [check.fail("metrics port", error.message, "host:port", "Correct metrics_listen.")]
