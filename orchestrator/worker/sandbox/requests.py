"""Pure: what is said to an evaluator, as lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.worker.line_protocol import request_line
from orchestrator.worker.sandbox_events import Assignment

DESCRIBE: Final = request_line({"request": "describe"})


def assign(assignment: Assignment) -> bytes:
    """Requirements and job at once: the evaluator takes them in order, and one round trip is saved."""
    worktime = {"name": assignment.worktime_name, "version": assignment.worktime_version}
    requirements = {"request": "applyRequirements", **assignment.requirements, "worktime": worktime["name"]}
    job = {
        "id": assignment.job_id,
        "workFunction": assignment.work_function,
        "argumentUris": list(assignment.argument_uris),
        "useStrict": assignment.use_strict,
        "public": dict(assignment.public),
        "requirePath": list(assignment.require_path),
        "modulePath": list(assignment.module_path),
        "dependencies": list(assignment.dependencies),
        "worktime": worktime,
    }
    request = {"request": "assign", "job": job, "sandboxConfig": dict(assignment.sandbox_config)}
    return request_line(requirements) + request_line(request)


def fetched(request_id: Any, data: Mapping[str, Any] | None) -> bytes:
    return request_line({"request": "fetchResponse", "fetchId": request_id, "data": data})


def not_fetched(request_id: Any, error: Mapping[str, Any]) -> bytes:
    return request_line({"request": "fetchError", "fetchId": request_id, "error": dict(error)})


def modules(request_id: Any, group: Mapping[str, Any]) -> bytes:
    return request_line({"request": "moduleGroup", "id": request_id, "data": group})


def no_modules(request_id: Any, message: str) -> bytes:
    return request_line({"request": "moduleGroupError", "id": request_id, "message": message})
