"""Settings: one frozen model per component. Flags, help and documentation are made from the fields written here.

A field is given by its flag, by `DCP_ORCHESTRATOR_<COMPONENT>_<FIELD>` in the environment, or in the component's table
of the settings file (see `configuration`). Its description becomes the help: a phrase without a full stop, with the
unit. `flag(...)` says what pydantic has no word for; its `topic` begins a section of the help.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from orchestrator.configuration import loading
from orchestrator.configuration.environment import ComponentSettings, component_config
from orchestrator.configuration.fields import flag
from orchestrator.configuration.loading import Loaded

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
    long_poll_s: float = Field(5.0, ge=0, description="how long a request for work waits for some, seconds")

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


class WorkerSettings(ComponentSettings):
    """What the Worker offers, to whom, and the limits of its sandboxes."""

    model_config = component_config("worker")

    scheduler_url: str = Field(
        "http://127.0.0.1:9001/",
        description="origin of the Scheduler",
        json_schema_extra=flag("--scheduler", metavar="URL", topic="Scheduler and identity"),
    )
    # the Scheduler's key
    accept_scheduler_key: tuple[str, ...] = Field(
        (),
        description="take the Scheduler at its word though its key has changed, if it has this address now",
        json_schema_extra=flag(metavar="ADDRESS"),
    )
    state_dir: pathlib.Path = Field(
        pathlib.Path(".local/worker"),
        description="folder of identity keystore and worker id",
        json_schema_extra=flag("--state"),
    )
    identity: pathlib.Path | None = Field(
        None, description="identity keystore, made when missing; worker.keystore in the state folder when not given"
    )
    payment_address: str | None = Field(
        None,
        description="who is paid; the identity's own address when not given",
        json_schema_extra=flag(metavar="ADDRESS"),
    )

    image: str = Field(
        "dcp-evaluator:local",
        description="the Evaluator image",
        json_schema_extra=flag(metavar="NAME", topic="Sandboxes"),
    )
    # isolation: which image is meant, and who vouches for it
    image_digest: str | None = Field(
        None,
        description="the image's id or its digest in a registry, sha256:…; an image that differs is refused",
        json_schema_extra=flag(metavar="DIGEST"),
    )
    image_public_key: pathlib.Path | None = Field(
        None, description="PEM file of the cosign key that must have signed the image, or it is refused"
    )
    require_limits: bool = Field(
        True, description="whether to refuse a Docker Engine that cannot limit memory, CPU and processes of a sandbox"
    )
    docker_host: str | None = Field(
        None,
        description="Docker Engine; $DOCKER_HOST or the usual socket when not given",
        json_schema_extra=flag(metavar="URL"),
    )
    docker_timeout_s: float = Field(
        20.0,
        gt=0.5,
        description="longest call to the Docker Engine, seconds",
        json_schema_extra=flag("--docker-timeout"),
    )
    oci_runtime: str | None = Field(
        None,
        description="OCI runtime that the Engine knows (runc, crun, runsc…); its default when not given",
        json_schema_extra=flag(metavar="NAME"),
    )
    cores: float | None = Field(
        None,
        gt=0,
        le=1024,
        description="cores to offer; all of this machine when not given",
        json_schema_extra=flag(topic="How many sandboxes"),
    )
    utilization: float = Field(1.0, gt=0, le=1, description="part of those cores to offer")
    sandboxes: int | None = Field(
        None, ge=1, le=1024, description="sandboxes at work at once; one per offered core when not given"
    )
    warm: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="sandboxes kept ready beyond those; as many as recent hand-outs needed when not given",
    )
    # the pool of sandboxes and their life
    max_sandboxes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="sandboxes at once when jobs wait more than they compute; 4 per core if memory allows,"
        " when not given",
    )
    sandbox_max_slices: int = Field(100_000, ge=1, description="slices after which a sandbox is replaced")
    sandbox_max_age_s: float = Field(12 * 3600.0, gt=0, description="age at which a sandbox is replaced, seconds")
    sandbox_max_growth_mib: int | None = Field(
        None,
        ge=1,
        description="growth of its memory since the first slice at which a sandbox is replaced, MiB;"
        " half of --memory when not given",
    )
    warm_min: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="fewest kept ready when --warm is not given; as many as --sandboxes, at most 4, when not given",
    )
    warm_max: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="most kept ready when --warm is not given; twice --sandboxes, at least 4, when not given",
    )
    warm_max_age_s: float = Field(6 * 3600.0, gt=0, description="age at which an unused sandbox is renewed, seconds")
    creates_at_once: int = Field(2, ge=1, le=64, description="sandboxes being started at once")
    refill_cpu_share: float = Field(
        0.25, gt=0, le=1, description="share of the cores that starts ahead of need may take while slices run"
    )
    memory_reserve_mib: int = Field(512, ge=0, description="memory of the machine not planned for sandboxes, MiB")
    memory_mib: int = Field(
        512,
        ge=16,
        description="memory of a sandbox, MiB",
        json_schema_extra=flag("--memory", topic="Limits of a sandbox"),
    )
    cpus: float = Field(1.0, ge=0.01, description="cores of a sandbox")
    # limits of sandboxes
    swap_mib: int = Field(
        0,
        ge=0,
        le=1024 * 1024,
        description="swap of a sandbox beyond its memory, MiB (unused on cgroup v1, where the lock-down allows none)",
        json_schema_extra=flag("--swap"),
    )
    pids: int = Field(32, ge=8, le=4096, description="threads of a sandbox; Node itself has 7")
    open_files: int = Field(256, ge=32, le=20_000, description="open files of a sandbox")
    output_line_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1_048_576,
        description="longest line of a sandbox, bytes: the largest result",
        json_schema_extra=flag("--output-line"),
    )
    output_slice_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1_048_576,
        description="most output between two answers of a sandbox, bytes",
        json_schema_extra=flag("--output-slice"),
    )
    output_total_bytes: int = Field(
        16 * 1024**3,
        ge=1_048_576,
        description="most output in a sandbox's life, bytes",
        json_schema_extra=flag("--output-total"),
    )
    output_lines_per_s: float = Field(
        2_000.0, gt=0, description="lines per second of a sandbox that are no results (console, events, progress)"
    )
    output_lines_burst: float = Field(20_000.0, ge=10, description="such lines at once, beyond that rate")
    log_bytes_per_s: float = Field(
        8.0 * 1024 * 1024, gt=0, description="bytes per second of a sandbox's lines that are no results"
    )
    log_bytes_burst: float = Field(32.0 * 1024 * 1024, ge=1_048_576, description="such bytes at once, beyond that rate")
    stderr_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        description="most that a sandbox may write to standard error in its life, bytes",
        json_schema_extra=flag("--stderr"),
    )
    start_timeout_s: float | None = Field(
        None, gt=0, description="longest start of a sandbox, seconds; the Scheduler's when not given, or 30"
    )
    assign_timeout_s: float | None = Field(
        None, gt=0, description="longest handing of a job to a sandbox, seconds; the Scheduler's when not given, or 60"
    )

    # receipts
    receipts: bool = Field(
        True,
        description="whether to sign a receipt for every slice and keep it",
        json_schema_extra=flag(topic="Receipts"),
    )
    receipts_max_mib: int = Field(256, ge=1, description="most that is kept of receipts, MiB")
    receipts_keep_days: int = Field(90, ge=0, description="days for which receipts are kept, beside today")

    # fetching
    allow_origin: tuple[str, ...] = Field(
        (),
        description="let jobs fetch from here: https://host, fetchData=https://host, file:///path, or *",
        json_schema_extra=flag(metavar="[PURPOSE=]ORIGIN", topic="Fetching"),
    )
    trust_scheduler: bool = Field(
        False, description="whether jobs may also fetch from where the Scheduler lets their compute group fetch"
    )
    fetch_timeout_s: float = Field(60.0, gt=0, description="longest fetch for a job, seconds")
    fetch_idle_s: float = Field(15.0, gt=0, description="longest time in which a server sends less than 1 KiB, seconds")
    fetch_max_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="largest thing fetched for a job, bytes")
    fetch_guest_max_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="largest answer to a fetch of a work function, bytes"
    )
    fetch_cache_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="memory for code, arguments and modules that were fetched, bytes"
    )
    fetch_proxy: str | None = Field(
        None,
        repr=False,
        description="HTTP proxy for what is fetched for jobs; it decides to which addresses names lead",
        json_schema_extra=flag(metavar="URL", secret=True),
    )
    result_store_patience_s: float = Field(
        120.0, ge=0, description="how long a result is kept that its job's storage does not take, seconds"
    )
    # finished results
    outbox_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=0,
        description="disk for results that the Scheduler has not acknowledged, bytes; 0 keeps them in memory only",
        json_schema_extra=flag(topic="Results"),
    )
    job_ids: tuple[str, ...] = Field(
        (),
        description="work for this job only; for all when none is given",
        json_schema_extra=flag("--job-id", metavar="ID", topic="Which work"),
    )
    compute_groups: tuple[str, ...] = Field(
        (),
        repr=False,
        description="join key and secret (or join hash, eh1-…) of a group to work for",
        json_schema_extra=flag("--compute-group", metavar="KEY,SECRET", secret=True),
    )
    public_group: bool = Field(True, description="whether to work for the public compute group")
    public_group_fallback: bool = Field(
        False, description="whether to work for the public compute group only when the others have no work"
    )
    job_name: tuple[str, ...] = Field(
        (),
        description="work for jobs whose name matches this regular expression only",
        json_schema_extra=flag(metavar="REGEX"),
    )
    block_job_ids: tuple[str, ...] = Field(
        (), description="never work for this job", json_schema_extra=flag("--block-job-id", metavar="ID")
    )
    block_job_name: tuple[str, ...] = Field(
        (),
        description="never work for jobs whose name matches this regular expression",
        json_schema_extra=flag(metavar="REGEX"),
    )
    block_groups: tuple[str, ...] = Field(
        (),
        description="never work for jobs that come through the compute group with this id",
        json_schema_extra=flag("--block-group", metavar="ID"),
    )
    worktimes: tuple[str, ...] = Field(
        (),
        description="offer this worktime only, such as map-basic; all that the image has when none is given",
        json_schema_extra=flag("--worktime", metavar="NAME"),
    )
    minimum_wage_cpu: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="DCC per CPU hour below which jobs are refused",
        json_schema_extra=flag(metavar="DCC"),
    )
    minimum_wage_gpu: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="DCC per GPU hour below which jobs are refused",
        json_schema_extra=flag(metavar="DCC"),
    )
    minimum_wage_in: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="DCC per MB of input below which jobs are refused",
        json_schema_extra=flag(metavar="DCC"),
    )
    minimum_wage_out: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="DCC per MB of output below which jobs are refused",
        json_schema_extra=flag(metavar="DCC"),
    )
    wage_slices: int = Field(5, ge=1, description="slices after which a job is judged by what it pays")
    wage_retry_s: float = Field(
        600.0, gt=0, description="time after which a job that paid too little gets a new chance, seconds"
    )

    prefetch_s: float | None = Field(
        None,
        gt=0.1,
        description="cores must have work for so long ahead, seconds; the Scheduler's when not given, or 5",
        json_schema_extra=flag(topic="Times"),
    )
    queue_s: float = Field(0.1, ge=0, description="work queued inside a sandbox, seconds")
    idle_poll_s: float | None = Field(
        None,
        gt=0,
        description="longest pause between requests without work, seconds; the Scheduler's when not given, or 1",
    )
    request_timeout_s: float = Field(
        180.0,
        gt=0,
        description="time after which a request for work is made again, seconds; its late answer still counts",
    )
    send_begin: bool = Field(True, description="whether to tell the Scheduler of each slice that begins")
    slice_timeout_s: float | None = Field(
        None, gt=0, description="longest run of a slice, seconds; the Scheduler's when not given"
    )
    progress_timeout_s: float | None = Field(
        None, gt=0, description="longest time without progress, seconds; the Scheduler's when not given"
    )
    stop_timeout_s: float = Field(30.0, gt=0, description="how long a stop waits for the Scheduler, seconds")
    goodbye_timeout_s: float = Field(
        3.0,
        gt=0,
        description="how long a worker that has delivered all tries to tell the Scheduler that it leaves, seconds",
    )

    # being a good citizen: when the machine is needed
    enable: bool = Field(
        False,
        description="whether to start although the Scheduler has disabled this worker",
        json_schema_extra=flag(topic="Pausing"),
    )
    pause_give_back: Literal["nothing", "unstarted", "everything"] = Field(
        "unstarted",
        description="what goes back to the Scheduler when quiet hours or load pause the worker; the rest is finished",
    )
    quiet_hours: tuple[str, ...] = Field(
        (),
        description='hours in which the worker is paused, such as "22:00-06:00" or "mon-fri 08:00-18:00"',
        json_schema_extra=flag(metavar="[DAYS] HH:MM-HH:MM"),
    )
    quiet_zone: str | None = Field(
        None,
        description="time zone of the quiet hours, such as Europe/Berlin; this machine's when not given",
        json_schema_extra=flag(metavar="ZONE"),
    )
    # Off unless asked for: on a machine that is there for its services, these would look like somebody in need.
    busy_cpu: float | None = Field(
        None, gt=0, le=1, description="part of the machine's cores that others use above which the worker is paused"
    )
    busy_memory_mib: int | None = Field(
        None,
        ge=1,
        description="available memory below which the worker is paused, MiB",
        json_schema_extra=flag("--busy-memory"),
    )
    busy_memory_pressure: float | None = Field(
        None,
        gt=0,
        le=100,
        description="memory pressure above which the worker is paused: % of 10 s in which something waits for memory",
    )
    busy_after_s: float = Field(10.0, ge=0, description="how long the machine has to be busy before a pause, seconds")
    calm_after_s: float = Field(60.0, ge=0, description="how long it has to be calm before work goes on, seconds")
    paused_keep_warm_s: float = Field(
        60.0, ge=0, description="time into a pause at which sandboxes that were kept ready give up their memory"
    )

    # watching it
    metrics_listen: str | None = Field(
        None,
        description="address of /metrics, /healthz and /readyz, such as 127.0.0.1:9464; none when not given",
        json_schema_extra=flag(metavar="[HOST]:PORT", topic="Watching"),
    )
    ready_max_age_s: float = Field(
        180.0, gt=0, description="age of the Scheduler's last answer above which /readyz says no, seconds"
    )
    otlp_endpoint: str | None = Field(
        None,
        description="URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318; $OTEL_EXPORTER_OTLP_ENDPOINT when "
        "not given",
        json_schema_extra=flag(metavar="URL"),
    )
    trace_sample_ratio: float = Field(
        0.0, ge=0, le=1, description="part of slices whose way is sent to the collector as a trace"
    )

    # the log
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least serious lines that the log on stderr has", json_schema_extra=flag(topic="Log")
    )
    log_format: Literal["text", "json"] | None = Field(
        None, description="lines for people or one JSON object per line; as --output says when not given"
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
