"""The page about fetching says what the code does."""

from __future__ import annotations

import pathlib
import re

from orchestrator.settings import WorkerSettings
from orchestrator.worker.fetching.failures import Cause
from orchestrator.worker.origins import Purpose

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "fetching.md").read_text()


def test_every_purpose_and_every_cause_is_explained():
    for word in (*Purpose, *Cause):
        assert f"`{word}`" in PAGE, word


def test_defaults_are_those_of_the_settings():
    defaults = {name: field.default for name, field in WorkerSettings.model_fields.items()}
    said = {
        "fetch_timeout_s": 60,
        "fetch_idle_s": 15,
        "fetch_max_bytes": 64 * 1024**2,
        "fetch_guest_max_bytes": 16 * 1024**2,
        "result_store_patience_s": 120,
    }
    assert {name: defaults[name] for name in said} == said
    for flag in re.findall(r"`--([a-z-]+)", PAGE):
        name = flag.replace("-", "_")
        assert name in defaults or f"{name}_s" in defaults, flag
