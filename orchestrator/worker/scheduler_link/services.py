"""Pure: where a Scheduler's configuration says that its services are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput


def service_url(config: Mapping[str, Any], *path: str) -> str:
    """The location of a service in a Scheduler's configuration. Raises `InvalidInput` naming what is missing."""
    node: Any = config
    for name in (*path, "location"):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, str):
        raise InvalidInput(f"the Scheduler's configuration has no {'.'.join(path)}.location")
    return node


def scheduler_service(config: Mapping[str, Any], name: str) -> str:
    """The location of one of the Scheduler's own services. Raises `InvalidInput`."""
    return service_url(config, "scheduler", "services", name)


def check_services(config: Mapping[str, Any]) -> None:
    """Raises `InvalidInput` when a configuration lacks a service that a worker needs."""
    for name in ("taskDistributor", "resultSubmitter", "eventRouter"):
        scheduler_service(config, name)
    service_url(config, "packageManager")
