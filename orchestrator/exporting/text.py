"""Prometheus text: the names that metrics have there, and a page of all of them."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from orchestrator import telemetry
from orchestrator.exporting.data import collected

_UNITS: Final = {"s": "seconds", "By": "bytes"}


def prometheus_name(meter: telemetry.Meter) -> str:
    """The name in queries; of a histogram the part before `_bucket`, `_sum` and `_count`."""
    name = meter.name.replace(".", "_")
    unit = _UNITS.get(meter.unit)
    if unit is not None and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    return f"{name}_total" if isinstance(meter, telemetry.Counter) else name


class Page:
    """Everything counted, as text. The exporter gives names and escapes; the totals are ours."""

    def __init__(self, who: Resource) -> None:
        self._registry = CollectorRegistry()
        self._reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        # As a MeterProvider does with its readers; one of those would count in OpenTelemetry's instruments.
        collect: Any = lambda _reader, timeout_millis=0.0: collected(who)  # noqa: E731
        self._reader._set_collect_callback(collect)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: what the request's `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
