"""The configuration that clients and workers fetch before anything else: where services are, and their rules."""

from __future__ import annotations

from typing import Any

from orchestrator import kvin
from orchestrator.settings import SchedulerSettings

SERVICES = (
    "jobSubmit", "taskDistributor", "resultSubmitter", "eventRouter", "computeGroups", "pheme",
)  # fmt: skip


def client_config(base_url: str, settings: SchedulerSettings) -> dict[str, Any]:
    """`base_url` ends in a slash. Every location ends in one too: clients append to it."""

    def location(path: str = "") -> dict[str, Any]:
        return {"location": kvin.DcpUrl(f"{base_url}{path}")}

    services = {name: location(f"{name}/") for name in SERVICES}
    services["taskDistributor"]["tuning"] = {"targetTaskDuration": settings.target_task_s}
    return {
        "scheduler": {
            **location(),
            "services": services,
            "compatibility": {
                "minimum": {"dcp": "^5.0.0"},
                "operations": {"work": "^1.0.0", "compute": "^1.0.0"},
            },
            "worker": {"types": ["v4"], "operations": "1.0.0"},
        },
        "bank": {**location(), "services": {"bankTeller": location("bankTeller/")}},
        "packageManager": location("packageManager/"),
        **{name: location() for name in ("portal", "pxAuth", "oAuth", "cdn")},
        "job": {
            "maxDeployTime": 300,
            "deployAttempts": 10,
            "deployCloseTimeout": 10_000,
            "uploadInitialNumberOfSlices": 5,
            "uploadIncreaseFactor": 3,
            "uploadSlicesTarget": 1_000_000,
            "uploadSlicesCeiling": 10_000_000,
            "sliceUploadErrorTolerance": 3,
            "modules": {},
        },
        "supervisor": {
            "sandbox": {
                "progressThrottle": 0.1,
                "progressTimeoutMs": round(settings.progress_timeout_s * 1000),
                "sliceTimeoutMs": round(settings.slice_timeout_s * 1000),
            },
            "tuning": {},
            "dcp": {"connectionOptions": {}},
        },
        "dcp": {"connectionOptions": {"default": {}}},
        "network": {},
        # As many ids as there can be events under way, and some: a repeated event is known by its id.
        "eventSubscriber": {"seenListSize": 2 * settings.event_window},
    }


def config_text(base_url: str, settings: SchedulerSettings, version: kvin.Version) -> str:
    return kvin.stringify(client_config(base_url, settings), version=version)
