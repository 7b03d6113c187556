"""The configuration that clients and workers fetch before anything else: where services are, and their rules."""

from __future__ import annotations

from typing import Any

from orchestrator import kvin
from orchestrator.jobs import piles
from orchestrator.protocol.config import build_config
from orchestrator.settings import SchedulerSettings


def client_config(base_url: str, settings: SchedulerSettings) -> dict[str, Any]:
    """`base_url` ends in a slash."""
    config = build_config(
        base_url,
        extra={
            "supervisor": {
                "sandbox": {
                    "progressThrottle": 0.1,
                    "progressTimeoutMs": round(settings.progress_timeout_s * 1000),
                    "sliceTimeoutMs": round(settings.slice_timeout_s * 1000),
                },
                "tuning": {},
                "dcp": {"connectionOptions": {}},
            },
            # As many ids as there can be events under way, and some: a repeated event is known by its id.
            "eventSubscriber": {"seenListSize": 2 * settings.event_window},
        },
    )
    services = config["scheduler"]["services"]
    services["taskDistributor"]["tuning"] = {"targetTaskDuration": settings.target_task_s}
    # Not of the protocol: official workers overlook it.
    services["resultSubmitter"]["tuning"] = {"resultsInPile": piles.MOST}
    return config


def config_text(base_url: str, settings: SchedulerSettings, version: kvin.Version) -> str:
    return kvin.stringify(client_config(base_url, settings), version=version)
