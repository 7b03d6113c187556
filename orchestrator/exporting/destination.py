"""Where to send by OTLP, if anywhere. Apart from `otlp`, whose libraries take a tenth of a second to import."""

from __future__ import annotations

import os
import re

from orchestrator.errors import InvalidInput


def wanted(endpoint: str | None, signal: str) -> bool:
    """Whether `signal` (metrics, traces) is to be sent: a setting or a standard variable says where."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip() == "none":
        return False
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return endpoint is not None or any(os.environ.get(name) for name in names)


def address(endpoint: str | None, signal: str) -> str | None:
    """None leaves it to the standard variables. Raises `InvalidInput` for what is no HTTP URL."""
    if endpoint is None:
        return None
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", endpoint):
        raise InvalidInput(f"otlp_endpoint is {endpoint!r}: it must be an HTTP URL, such as http://127.0.0.1:4318")
    return f"{endpoint.rstrip('/')}/v1/{signal}"
