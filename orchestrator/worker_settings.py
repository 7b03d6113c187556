"""The Worker's settings; `settings` says how the fields are written and read."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

from pydantic import Field

from orchestrator.configuration.environment import ComponentSettings, component_config
from orchestrator.configuration.fields import flag


def _minimum_wage(per: str) -> Any:
    description = f"DCC per {per} below which jobs are refused"
    return Field(0.0, ge=0, le=1e9, description=description, json_schema_extra=flag(metavar="DCC"))


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
    minimum_wage_cpu: float = _minimum_wage("CPU hour")
    minimum_wage_gpu: float = _minimum_wage("GPU hour")
    minimum_wage_in: float = _minimum_wage("MB of input")
    minimum_wage_out: float = _minimum_wage("MB of output")
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
    queue_s: float = Field(0.25, ge=0, description="work queued inside a sandbox, seconds")
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
