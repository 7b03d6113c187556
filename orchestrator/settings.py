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


class WorkerSettings(BaseSettings):
    """What the Worker offers, to whom, and the limits of its sandboxes."""

    model_config = _env("DCP_ORCHESTRATOR_WORKER_")

    scheduler_url: str = Field("http://127.0.0.1:9001/", description="origin of the Scheduler")
    state_dir: pathlib.Path = Field(pathlib.Path(".local/worker"), description="identity, worker id and unsent results")
    image: str = Field("dcp-evaluator:local", description="the Evaluator image")
