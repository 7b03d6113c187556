"""Settings: one frozen model per component, read from the environment (`DCP_<COMPONENT>_<FIELD>`) and from flags."""

from __future__ import annotations

import pathlib

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _env(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="forbid")


class SchedulerSettings(BaseSettings):
    """Where the Scheduler listens, keeps its state, and the rules of its leases."""

    model_config = _env("DCP_ORCHESTRATOR_SCHEDULER_")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(9001, ge=0, le=65535, description="TCP port; 0 takes a free one")
    public_url: str | None = Field(None, description="URL that clients use; the listening address when not given")
    state_dir: pathlib.Path = Field(pathlib.Path(".local/scheduler"), description="database and service keystores")
    database_url: str | None = Field(None, description="async SQLAlchemy URL; SQLite in the state directory if not given")

    initial_credit: int = Field(
        0, ge=0, description="units of 10^-18 DCC that an account starts with when it is first used; 0 opens none"
    )
    market_slice_value: int = Field(
        10**13, ge=0, description="units of 10^-18 DCC that an offer of one market value pays per slice"
    )
    estimation_slices: int = Field(3, ge=0, description="slices to measure before a job is packed, if it does not say")
    target_task_s: float = Field(10.0, gt=0, description="work that a task should hold per core, seconds")
    min_task_s: float = Field(0.5, gt=0, description="work below which a task is not split to share a job's end, seconds")
    max_task_slices: int = Field(500, ge=1, description="slices per task")
    long_poll_s: float = Field(5.0, ge=0, description="how long a request for work waits for some, seconds")

    lease_s: float = Field(300.0, gt=0, description="how long a worker may be silent before its slices go to others")
    beacon_s: float = Field(60.0, gt=0, description="how often a worker says what it still holds, seconds")
    alive_s: float = Field(90.0, gt=0, description="how long after its last word a worker counts as present, seconds")
    other_worker_s: float = Field(
        60.0, ge=0, description="how long a slice that a worker failed waits for another worker that could have it"
    )
    rejected_job_s: float = Field(
        10.0, ge=0, description="how long a job waits that every present worker has rejected, before it is stopped"
    )
    max_slice_failures: int = Field(3, ge=1, description="failures of the job's own after which a slice is given up")
    max_slice_losses: int = Field(10, ge=1, description="lost leases after which a slice is given up")
    failed_slice_limit: int = Field(
        10, ge=1, description="slices given up, being more than were computed, that stop a job with ETOOMANYERRORS"
    )
    slice_timeout_s: float = Field(86_400.0, gt=0, description="longest run of a slice, seconds")
    progress_timeout_s: float = Field(30.0, gt=0, description="longest time between calls of progress(), seconds")

    event_window: int = Field(256, ge=1, description="events on their way to one subscriber")
    max_queued_events: int = Field(10_000, ge=1, description="unheard console, error and custom events kept per job")
    status_interval_s: float = Field(0.25, ge=0, description="least time between two status events of a job")
    stop_settle_s: float = Field(1.0, ge=0, description="time after the last deploying step before a stop is sent")
    stop_repeat_s: float = Field(2.0, gt=0, description="time after which a stop is repeated")


class WorkerSettings(BaseSettings):
    """What the Worker offers, to whom, and the limits of its sandboxes."""

    model_config = _env("DCP_ORCHESTRATOR_WORKER_")

    scheduler_url: str = Field("http://127.0.0.1:9001/", description="origin of the Scheduler")
    state_dir: pathlib.Path = Field(pathlib.Path(".local/worker"), description="identity, worker id and unsent results")
    image: str = Field("dcp-evaluator:local", description="the Evaluator image")
