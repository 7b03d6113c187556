"""OTLP over HTTP: metrics every so often, spans as they end. What cannot be sent is lost and said once.

The endpoint is a setting, or the standard `OTEL_EXPORTER_OTLP_ENDPOINT` and its relatives, which the exporters read
themselves (headers, certificates, compression, time-outs too).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from orchestrator.exporting.data import collected
from orchestrator.exporting.destination import address

log = logging.getLogger(__name__)
# The library warns at every try; we say when it begins to fail, and when it works again.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

_INTERVAL_S: Final = 60.0
_TIMEOUT_S: Final = 10.0
_LAST_TIMEOUT_S: Final = 3.0


def _timeout(signal: str) -> float | None:
    names = ("OTEL_EXPORTER_OTLP_TIMEOUT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT")
    return None if any(os.environ.get(name) for name in names) else _TIMEOUT_S


class _Watch:
    """Says once that sending fails, and once that it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.failures = 0

    def saw(self, worked: bool) -> None:
        if worked and self.failures:
            log.info("export_works_again", extra={"signal": self._what, "failures": self.failures})
        if not worked and not self.failures:
            log.warning("export_failed", extra={"signal": self._what})
        self.failures = 0 if worked else self.failures + 1


class MetricsSender:
    """`await run()` sends until cancelled; `await last()` sends once more and closes. Sending has a thread of its own.

    `refresh` is called in the event loop before each export.
    """

    def __init__(self, who: Resource, endpoint: str | None, refresh: Callable[[], None]) -> None:
        self._who = who
        self._refresh = refresh
        self._exporter = OTLPMetricExporter(address(endpoint, "metrics"), timeout=_timeout("metrics"))
        self._watch = _Watch("metrics")
        milliseconds = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
        self.interval_s = int(milliseconds) / 1000 if milliseconds.isdigit() and int(milliseconds) else _INTERVAL_S

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        while True:
            await sleep(self.interval_s)
            await self.send()

    async def send(self) -> bool:
        """Whether it was taken. Never raises but when cancelled; the thread then goes on until its time-out."""
        self._refresh()
        try:
            sent = await asyncio.to_thread(self._exporter.export, collected(self._who))
            worked = sent is MetricExportResult.SUCCESS
        except Exception:  # whatever a library may do, the worker goes on
            log.debug("export_raised", exc_info=True)
            worked = False
        self._watch.saw(worked)
        return worked

    async def last(self) -> None:
        """What was counted since, if the collector takes it at once."""
        try:
            async with asyncio.timeout(_LAST_TIMEOUT_S):
                await self.send()
        except TimeoutError:
            self._watch.saw(worked=False)
        # Ends a try that is still waiting, so that nobody waits for its thread.
        await asyncio.to_thread(self._exporter.shutdown)


class _WatchedSpans(SpanExporter):
    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._watch = _Watch("traces")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:
            log.debug("export_raised", exc_info=True)
            result = SpanExportResult.FAILURE
        self._watch.saw(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def tracer_provider(who: Resource, endpoint: str | None) -> TracerProvider:
    """Sends spans in the background, in batches; who samples has decided before. `shutdown()` sends what is left."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=who, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(address(endpoint, "traces"), timeout=_timeout("traces"))
    provider.add_span_processor(BatchSpanProcessor(_WatchedSpans(exporter), export_timeout_millis=_TIMEOUT_S * 1000))
    return provider
