"""How others watch a worker: its metrics over HTTP and OTLP, its health, and traces of some of its slices.

Nothing here is on a slice's path, and nothing that fails here disturbs the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode

from orchestrator.exporting import data, destination, text
from orchestrator.exporting.metrics_server import MetricsServer
from orchestrator.settings import WorkerSettings
from orchestrator.worker import readings, traces
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.health import Health
from orchestrator.worker.owned_tasks import OwnedTasks

log = logging.getLogger(__name__)

_SERVICE: Final = "dcp-worker"
_CLOSING_S: Final = 3.0


class Observed(Protocol):
    """What is read of the worker."""

    def statistics(self) -> dict[str, Any]: ...
    def usage(self) -> dict[str, Any]: ...
    def readiness(self) -> Health: ...
    def liveness(self) -> Health: ...


class Observing:
    """`async with` it. Leaving sends what was not sent yet, for a few seconds at most.

    Entering raises what `MetricsServer` raises. `spans` takes the place of the provider that sends by OTLP.
    """

    def __init__(
        self,
        worker: Observed,
        settings: WorkerSettings,
        worker_id: str,
        clock: Callable[[], float],
        spans: TracerProvider | None = None,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._who = data.resource(_SERVICE, worker_id)
        self._page = text.Page(self._who)
        self._provider = spans
        self._tracer: otel.Tracer | None = None
        self._stack = contextlib.AsyncExitStack()
        self.server: MetricsServer | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            if settings.metrics_listen is not None:
                server = MetricsServer(
                    settings.metrics_listen,
                    page=self._fresh_page,
                    live=self._worker.liveness,
                    ready=self._worker.readiness,
                )
                self.server = await stack.enter_async_context(server)
            if destination.wanted(settings.otlp_endpoint, "metrics"):
                from orchestrator.exporting import otlp  # noqa: PLC0415  (see `destination`)

                sender = otlp.MetricsSender(self._who, settings.otlp_endpoint, self.refresh)
                stack.push_async_callback(sender.last)
                tasks = await stack.enter_async_context(OwnedTasks())
                tasks.create_task(sender.run(), name="send-metrics")
            if settings.trace_sample_ratio:
                self._open_traces(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _open_traces(self, stack: contextlib.AsyncExitStack) -> None:
        if self._provider is None and destination.wanted(self._settings.otlp_endpoint, "traces"):
            from orchestrator.exporting import otlp  # noqa: PLC0415  (see `destination`)

            self._provider = otlp.tracer_provider(self._who, self._settings.otlp_endpoint)
        if self._provider is None:
            log.warning("traces_go_nowhere", extra={"remedy": "set otlp_endpoint, or trace_sample_ratio to 0"})
            return
        self._tracer = self._provider.get_tracer("dcp-orchestrator")
        stack.push_async_callback(self._close_traces, self._provider)

    async def _close_traces(self, provider: TracerProvider) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await asyncio.to_thread(provider.shutdown)

    def refresh(self) -> None:
        """Read the worker's statistics into the metrics."""
        ready = self._worker.readiness().ok
        readings.tell(self._worker.statistics(), self._worker.usage(), ready=ready, now=self._clock())

    def _fresh_page(self, accept: str) -> tuple[bytes, str]:
        self.refresh()
        return self._page.text(accept)

    # -- traces ------------------------------------------------------------------------------------------------------

    def trace(self, told: act.Trace) -> None:
        """Record the spans of a slice that has left."""
        if self._tracer is None:
            return
        whole, parts = traces.spans_of(told)
        to_unix = time.time() - self._clock()

        def ns(at: float) -> int:
            return round((at + to_unix) * 1e9)

        root = self._tracer.start_span(whole.name, start_time=ns(whole.start), attributes=dict(whole.attributes))
        for at, line in told.story:
            root.add_event(line, timestamp=ns(at))
        inside = otel.set_span_in_context(root)
        for part in parts:
            span = self._tracer.start_span(
                part.name, inside, start_time=ns(part.start), attributes=dict(part.attributes)
            )
            _end(span, part, ns(part.end))
        _end(root, whole, ns(whole.end))


def _end(span: otel.Span, part: traces.Span, end_ns: int) -> None:
    if part.failed:
        span.set_status(Status(StatusCode.ERROR, part.failed))
    span.end(end_ns)
