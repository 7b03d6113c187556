"""The parts of a worker, made as its settings say; none of them has started."""

from __future__ import annotations

import logging
from collections.abc import Callable

from yarl import URL

from orchestrator.protocol.client import ClientLimits, DcpClient
from orchestrator.protocol.vocabulary import SessionLimits
from orchestrator.settings import WorkerSettings
from orchestrator.worker import image_pin, limit_settings, trusting
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.fetching.fetcher import Fetcher, FetchLimits
from orchestrator.worker.fetching.web import WebLimits
from orchestrator.worker.limits import MIB, SliceLimits
from orchestrator.worker.notary import Notary
from orchestrator.worker.origins import OriginRules
from orchestrator.worker.outbox import Outbox
from orchestrator.worker.provenance import trust
from orchestrator.worker.receipt_files import FOLDER, ReceiptFiles
from orchestrator.worker.receipts import Terms, limits_in_force

log = logging.getLogger(__name__)

_START_PATIENCE_S = 60.0


def runtime(settings: WorkerSettings, worker_id: str) -> DockerRuntime:
    return DockerRuntime(
        worker_id,
        RuntimeSettings(
            image=settings.image,
            image_digest=settings.image_digest,
            require_limits=settings.require_limits,
            docker_host=settings.docker_host,
            runtime=settings.oci_runtime,
            call_timeout_s=settings.docker_timeout_s,
            start_patience_s=_START_PATIENCE_S,
            limits=limit_settings.kernel_limits(settings),
        ),
    )


async def trust_image(settings: WorkerSettings, started: DockerRuntime) -> None:
    """No sandbox is made of an image for which nobody vouches, if somebody must. Raises what `trust.insist` raises."""
    if settings.image_public_key is None:
        return
    name = await trust.insist(
        settings.image,
        started.image_id,
        started.repo_digests,
        settings.image_public_key,
        trust.TrustedImages(settings.state_dir),
        pin=image_pin.pin_of(settings.image, settings.image_digest),
    )
    log.info("image_trusted", extra={"image": name, "signed_with": str(settings.image_public_key)})


def client(settings: WorkerSettings, account: WorkerAccount) -> DcpClient:
    """Raises `InvalidInput` for keys to accept that are none, or when the file of known keys is damaged."""
    client = DcpClient(
        account.identity,
        settings.state_dir / "identity-cache.json",
        limits=ClientLimits(session=SessionLimits(close_timeout=settings.goodbye_timeout_s)),
    )
    client.accepted = trusting.accepted_keys(settings.accept_scheduler_key)
    return client


def fetcher(settings: WorkerSettings, rules: OriginRules) -> Fetcher:
    limits = FetchLimits(
        max_bytes=settings.fetch_max_bytes,
        guest_bytes=settings.fetch_guest_max_bytes,
        cache_bytes=settings.fetch_cache_bytes,
        store_patience_s=settings.result_store_patience_s,
        web=WebLimits(timeout_s=settings.fetch_timeout_s, idle_s=settings.fetch_idle_s),
    )
    return Fetcher(rules, limits, trust=settings.trust_scheduler, proxy=settings.fetch_proxy)


def outbox(settings: WorkerSettings, on_room: Callable[[int], None]) -> Outbox:
    scheduler = str(URL(settings.scheduler_url).origin())
    return Outbox(settings.state_dir, scheduler, settings.outbox_bytes, on_room=on_room)


def notary(settings: WorkerSettings, account: WorkerAccount, started: DockerRuntime, limits: SliceLimits) -> Notary:
    terms = Terms(
        worker=account.identity.address,
        worker_id=account.worker_id,
        payment_address=account.payment_address,
        image=started.image_digest,
        limits=limits_in_force(started.settings.limits, limits),
        isolation=str(started.isolation),
    )
    files = ReceiptFiles(
        settings.state_dir / FOLDER, max_bytes=settings.receipts_max_mib * MIB, keep_days=settings.receipts_keep_days
    )
    return Notary(account.identity, terms, files)
