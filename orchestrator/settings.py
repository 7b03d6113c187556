"""Settings: one frozen model per component. Flags, help and documentation are made from the fields written here (the
Worker's in `worker_settings`).

A field is given by its flag, by `DCP_ORCHESTRATOR_<COMPONENT>_<FIELD>` in the environment, or in the component's table
of the settings file (see `configuration`). Its description becomes the help: a phrase without a full stop, with the
unit. `flag(...)` says what pydantic has no word for; its `topic` begins a section of the help.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from orchestrator.configuration import loading
from orchestrator.configuration.environment import ComponentSettings, component_config
from orchestrator.configuration.fields import flag
from orchestrator.configuration.loading import Loaded
from orchestrator.worker_settings import WorkerSettings

__all__ = ["COMPONENTS", "LocalSettings", "SchedulerSettings", "WorkerSettings", "load", "settings_from"]

_Settings = TypeVar("_Settings", bound=ComponentSettings)


def settings_from(model: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """`given` (flags) over environment over settings file over defaults. Raises what `load` raises."""
    return load(model, given).settings


def load(model: type[_Settings], given: Mapping[str, Any], config: pathlib.Path | None = None) -> Loaded[_Settings]:
    """The same with where each value came from, and a way to read it again. `config` names the settings file.

    Raises `InvalidInput` naming every setting that is wrong or unknown, `NotPermitted` for a file that may not be read
    or that lets others read secrets. Blocks on the file system.
    """
    return loading.load(model, given, COMPONENTS, config)


class SchedulerSettings(ComponentSettings):
    """Where the Scheduler listens, keeps its state, and the rules of its leases."""

    model_config = component_config("scheduler")

    host: str = Field(
        "127.0.0.1", description="address to listen on", json_schema_extra=flag(metavar="ADDRESS", topic="Place")
    )
    port: int = Field(9001, ge=0, le=65535, description="TCP port; 0 takes a free one")
    public_url: str | None = Field(
        None,
        description="URL that clients use; the listening address when not given",
        json_schema_extra=flag(metavar="URL"),
    )
    state_dir: pathlib.Path = Field(
        pathlib.Path(".local/scheduler"),
        description="folder of the database and the service keystores",
        json_schema_extra=flag("--state"),
    )
    database_url: str | None = Field(
        None,
        description="async SQLAlchemy URL of the database; SQLite in the state folder when not given",
        json_schema_extra=flag("--database", metavar="URL", secret=True),
    )
    database_wait_s: float = Field(
        300.0,
        ge=0,
        description="seconds for which a Scheduler that starts waits for PostgreSQL to answer",
        json_schema_extra=flag("--database-wait"),
    )
    migrate: bool = Field(
        True, description="whether to bring the database's schema up to date at the start (see db migrate)"
    )

    tls_certificate: pathlib.Path | None = Field(
        None,
        description="PEM file of the certificate (and its chain) to serve https with; plain http when not given",
        json_schema_extra=flag(metavar="FILE", topic="TLS and proxies"),
    )
    tls_key: pathlib.Path | None = Field(
        None,
        description="PEM file of its private key; in the certificate's file when not given",
        json_schema_extra=flag(metavar="FILE"),
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="address or network of a proxy whose X-Forwarded-For, -Proto and -Host are believed",
        json_schema_extra=flag("--trusted-proxy", metavar="ADDRESS"),
    )

    max_connections: int = Field(
        40_000, ge=1, description="connections of all peers", json_schema_extra=flag(topic="Limits against floods")
    )
    max_sessions: int = Field(20_000, ge=1, description="sessions of all peers")
    max_address_connections: int = Field(5_000, ge=1, description="connections of one network address")
    max_address_half_open: int = Field(
        1_000, ge=1, description="connections of one address that have not opened a session yet"
    )
    address_connects_per_s: float = Field(
        500.0, gt=0, description="new connections per second of one address, after ten times as many at once"
    )
    address_messages_per_s: float = Field(
        20_000.0, gt=0, description="messages per second of one address; what comes faster is read later"
    )
    max_identity_sessions: int = Field(2_000, ge=1, description="sessions of one identity")
    identity_messages_per_s: float = Field(
        5_000.0, gt=0, description="messages (of up to 100 requests) per second of one identity, before it must wait"
    )
    identity_requests_per_s: float = Field(
        20_000.0, gt=0, description="requests per second of one identity; more are answered with EBUSY"
    )
    identity_mib_per_s: float = Field(
        256.0, gt=0, description="MiB per second of one identity; what comes faster is read later"
    )
    address_offences_per_s: float = Field(
        5.0,
        gt=0,
        description="malformed or forged messages, and connections beyond the rate, per second of one address (after 40"
        " times as many at once) before it is banned",
    )
    address_ban_s: float = Field(
        60.0,
        ge=0,
        description="how long a banned address opens no new connections, seconds; its sessions go on; 0 bans nobody",
    )
    identity_offences_per_s: float = Field(
        1.0,
        gt=0,
        description="messages that one identity signs in breach of the protocol, per second (after 40 times as many at"
        " once) before it is banned; what others send in its name does not count",
    )
    identity_ban_s: float = Field(
        600.0,
        ge=0,
        description="how long an identity that was banned for that has no sessions, seconds; 0 bans no identity",
    )
    max_identity_held_mib: int = Field(
        512,
        ge=1,
        description="MiB of one identity's unfinished messages, requests without answer and answers not taken yet",
    )
    max_address_held_mib: int = Field(1024, ge=1, description="MiB of the same for one address")
    max_held_mib: int = Field(2048, ge=1, description="MiB of the same for all peers")
    max_jobs_per_owner: int = Field(10_000, ge=1, description="jobs of one identity that have not ended")
    max_inputs_mib_per_owner: int = Field(
        10_240, ge=1, description="MiB of code and inputs of one identity's jobs that have not ended"
    )

    initial_credit: int = Field(
        0,
        ge=0,
        description="credit that an account starts with when it is first used; 0 opens none",
        json_schema_extra=flag(amount=True, topic="Money"),
    )
    bank_operator: tuple[str, ...] = Field(
        (),
        description="address whose key may issue credits and pay out fees; the Scheduler's own when not given",
        json_schema_extra=flag(metavar="ADDRESS"),
    )
    market_slice_value: int = Field(
        10**13,
        ge=0,
        description="what an offer of one market value pays per slice",
        json_schema_extra=flag(amount=True),
    )
    chain_url: str | None = Field(
        None,
        description="JSON-RPC endpoint of the Ethereum chain to follow; no chain when not given",
        json_schema_extra=flag(metavar="URL", secret=True, topic="Ethereum chain"),
    )
    chain_contract: str | None = Field(
        None, description="address of the DCC contract there", json_schema_extra=flag(metavar="ADDRESS")
    )
    chain_keystore: pathlib.Path | None = Field(
        None, description="keystore of the Bank on the chain, to whose address deposits are sent"
    )
    chain_confirmations: int = Field(
        12, ge=1, description="blocks, its own included, after which a deposit is credited"
    )
    chain_start_block: int = Field(0, ge=0, description="block of the chain to begin with: where the contract was made")
    chain_poll_s: float = Field(5.0, gt=0, description="how often the chain is asked for new blocks, seconds")
    chain_withdrawals: bool = Field(
        False, description="let users withdraw credits to the chain; its keystore is unlocked for that"
    )
    chain_min_withdrawal: int = Field(
        10**18,
        ge=1,
        description="least amount of a withdrawal, of which the Bank pays the gas",
        json_schema_extra=flag(amount=True),
    )
    chain_resend_s: float = Field(
        120.0,
        gt=0,
        description="time after which a withdrawal that is in no block is sent again with a higher fee, seconds",
    )
    chain_max_fee_gwei: float = Field(
        500.0, gt=0, le=10**9, description="most that is paid per gas for a withdrawal, gwei"
    )
    metrics_listen: str | None = Field(
        None,
        description="address of /metrics, /healthz and /readyz, such as 127.0.0.1:9465; none when not given",
        json_schema_extra=flag(metavar="[HOST]:PORT", topic="Watching"),
    )
    group_creators: tuple[str, ...] = Field(
        (),
        description="identity that may make compute groups; everybody may when none is given",
        json_schema_extra=flag("--group-creator", metavar="ADDRESS", topic="Compute groups"),
    )
    max_groups_per_owner: int = Field(100, ge=0, description="compute groups that one identity may have")
    max_group_fee: int = Field(
        10 * 10**18,
        ge=0,
        description="fee of a compute group up to which the payment account need not sign the request to join",
        json_schema_extra=flag(amount=True),
    )
    open_job_slices: int = Field(
        10, ge=1, description="slices that are held for at the deploy of a job whose inputs come later"
    )
    abandoned_job_s: float = Field(
        7 * 86_400.0,
        gt=0,
        description="time without its owner or a worker after which a job is stopped and its hold returned, seconds",
    )
    market_half_life_s: float = Field(
        21_600.0, gt=0, description="after how long a payment counts half as much for the market value, seconds"
    )
    longest_wait_portions: int = Field(
        8,
        ge=2,
        description="of so many parts of tasks one goes to the job that has waited longest, whatever others pay",
    )
    estimation_slices: int = Field(
        3,
        ge=0,
        description="slices to measure before a job is packed, if it does not say",
        json_schema_extra=flag(topic="Tasks"),
    )
    target_task_s: float = Field(10.0, gt=0, description="work that a task should hold per core, seconds")
    min_task_s: float = Field(0.5, gt=0, description="work below which a task is not split further, seconds")
    max_task_slices: int = Field(500, ge=1, description="slices per task")
    long_poll_s: float = Field(
        5.0,
        ge=0,
        description="how long a request for work waits for some, seconds; up to four times that where thousands wait",
    )

    lease_s: float = Field(
        300.0,
        gt=0,
        description="how long a worker may be silent before its slices go to others, seconds",
        json_schema_extra=flag(topic="Workers and failures"),
    )
    late_factor: float = Field(
        1.5, ge=1, description="times the usual length of a task after which its slices also go to idle workers"
    )
    late_bias_s: float = Field(5.0, ge=0, description="seconds that are added to it")
    late_unknown_s: float = Field(
        60.0, gt=0, description="taken for the usual length of a slice before any of the job was measured, seconds"
    )
    beacon_s: float = Field(60.0, gt=0, description="how often a worker says what it still holds, seconds")
    alive_s: float = Field(90.0, gt=0, description="how long after its last word a worker counts as present, seconds")
    other_worker_s: float = Field(
        60.0, ge=0, description="how long a slice that a worker failed waits for another worker that could have it"
    )
    ban_s: float = Field(
        600.0, ge=0, description="how long a worker that fails slices of a job again and again leaves it to others"
    )
    rejected_job_s: float = Field(
        10.0, ge=0, description="how long a job waits that every present worker has rejected, before it is stopped"
    )
    max_slice_failures: int = Field(3, ge=1, description="failures of the job's own after which a slice is given up")
    max_slice_losses: int = Field(10, ge=1, description="lost leases after which a slice is given up")
    failed_slice_limit: int = Field(
        10, ge=1, description="slices given up, being more than were computed, that stop a job with ETOOMANYERRORS"
    )
    agree: int = Field(
        2,
        ge=2,
        description="workers that must agree on a slice of a job that asks for redundancy and does not say how many",
        json_schema_extra=flag(topic="Redundancy"),
    )
    max_opinions: int = Field(15, ge=2, description="most workers that a job may have asked about one slice")
    opinion_wait_s: float = Field(
        86_400.0,
        gt=0,
        description="time without a further opinion after which a slice on which workers must agree is given up, "
        "seconds",
    )
    trusted_after: int = Field(
        10, ge=1, description="results that others agreed with after which an owner's jobs may believe a worker alone"
    )
    least_spot_checks: float = Field(
        0.05, ge=0, le=1, description="share of a trusted worker's slices that others compute, too, at least"
    )

    slice_timeout_s: float = Field(86_400.0, gt=0, description="longest run of a slice, seconds")
    progress_timeout_s: float = Field(30.0, gt=0, description="longest time between calls of progress(), seconds")

    event_window: int = Field(
        256, ge=1, description="events on their way to one subscriber", json_schema_extra=flag(topic="Events")
    )
    max_queued_events: int = Field(10_000, ge=1, description="unheard console, error and custom events kept per job")
    status_interval_s: float = Field(0.25, ge=0, description="least time between two status events of a job")
    stop_settle_s: float = Field(1.0, ge=0, description="time after the last deploying step before a stop is sent")
    stop_repeat_s: float = Field(2.0, gt=0, description="time after which a stop is repeated")
    blob_store: str | None = Field(
        None,
        description="where big values are kept outside the database: a folder, s3://BUCKET/PREFIX, or off; the folder"
        " blobs beside the SQLite file, and off with PostgreSQL, when not given",
        json_schema_extra=flag(metavar="PLACE", topic="Big values and retention"),
    )
    blob_threshold: int = Field(65_536, ge=1024, description="characters from which on a value is a big one")
    s3_endpoint: str = Field(
        "https://s3.amazonaws.com",
        description="URL of the S3-compatible store",
        json_schema_extra=flag(metavar="URL"),
    )
    s3_region: str = Field("us-east-1", description="region that requests to the store are signed for")
    s3_access_key: str = Field("", description="access key of the store")
    s3_secret_key: str = Field("", description="secret key of the store", json_schema_extra=flag(secret=True))
    keep_events_s: float = Field(
        7 * 86_400.0,
        ge=0,
        description="how long events that nobody fetched are kept after their job ended, seconds",
    )
    keep_results_s: float = Field(
        30 * 86_400.0, ge=0, description="how long results, inputs and slices of an ended job are kept, seconds"
    )


class LocalSettings(ComponentSettings):
    """A whole distributed computer in one process."""

    model_config = component_config("local")

    host: str = Field("127.0.0.1", description="address to listen on", json_schema_extra=flag(metavar="ADDRESS"))
    port: int = Field(9001, ge=0, le=65535, description="TCP port; 0 takes a free one")
    state_dir: pathlib.Path = Field(
        pathlib.Path(".local"),
        description="folder of database, keystores and the demo's picture",
        json_schema_extra=flag("--state"),
    )
    sandboxes: int | None = Field(None, ge=1, description="sandboxes at work at once; one per core when not given")
    credit: int = Field(
        1_000_000 * 10**18,
        ge=0,
        description="credit that every account starts with",
        json_schema_extra=flag(amount=True),
    )


COMPONENTS: Mapping[str, type[BaseModel]] = {
    "worker": WorkerSettings,
    "scheduler": SchedulerSettings,
    "local": LocalSettings,
}
"""The tables of the settings file."""
