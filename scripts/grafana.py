"""The Grafana dashboards, made from the list of metrics: `python -m scripts.write_docs` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator import telemetry as t
from orchestrator.exporting.text import prometheus_name

_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_MINE: Final = '{instance=~"$instance"}'
_WIDTH: Final = 24
_PARTS: Final = (0.5, 0.95, 0.99)


def _now(meter: t.Meter, by: str | None = None) -> str:
    return _sum(f"{prometheus_name(meter)}{_MINE}", by)


def _rate(meter: t.Meter, by: str | None = None, suffix: str = "") -> str:
    return _sum(f"rate({prometheus_name(meter)}{suffix}{_MINE}[$__rate_interval])", by)


def _quantile(meter: t.Meter, part: float) -> str:
    return f"histogram_quantile({part}, {_rate(meter, 'le', '_bucket')})"


def _sum(expression: str, by: str | None) -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


Query = tuple[str, str]  # expression, legend
Panel = tuple[str, str, int, list[Query]]  # title, unit, width, queries

_HIT: Final = f'{prometheus_name(t.sandbox_hand_out_time)}_count{{instance=~"$instance",hit="true"}}'

_WORKING: Final = f'{prometheus_name(t.slots)}{{instance=~"$instance",state="working"}}'

#: A row is as many as fit.
PANELS: Final[list[Panel]] = [
    ("Ready", "bool_yes_no", 4, [(f"min({prometheus_name(t.ready)}{_MINE})", "ready")]),
    ("Docker", "bool_yes_no", 4, [(f"min({prometheus_name(t.docker_available)}{_MINE})", "available")]),
    ("Scheduler's last answer", "s", 4, [(f"max({prometheus_name(t.answer_age)}{_MINE})", "age")]),
    (
        "Places at work",
        "percentunit",
        4,
        [
            (f"{_sum(_WORKING, None)} / {_now(t.slots)}", "working"),
        ],
    ),
    ("Slices per second", "ops", 4, [(_rate(t.slices_ended), "slices")]),
    ("Earned", "none", 4, [(_now(t.earnings), "DCC")]),
    (
        "Slices by outcome",
        "ops",
        12,
        [(_rate(t.slices_ended, "outcome"), "{{outcome}}"), (_rate(t.slices_returned, "code"), "returned {{code}}")],
    ),
    ("Results by verdict", "ops", 12, [(_rate(t.results, "verdict, code"), "{{verdict}} {{code}}")]),
    ("Places", "none", 12, [(_now(t.slots, "state"), "{{state}}")]),
    ("Why places had no work", "percentunit", 12, [(_rate(t.idle_time, "code"), "{{code}}")]),
    (
        "CPU: slices, overhead, the Worker",
        "none",
        12,
        [
            (_rate(t.slice_cpu_time), "slices"),
            (f"{_rate(t.sandboxes_cpu_time)} - {_rate(t.slice_cpu_time)}", "overhead in sandboxes"),
            (_rate(t.process_cpu_time), "the Worker"),
        ],
    ),
    ("Wall time of a slice", "s", 12, [(_quantile(t.slice_wall_time, part), f"p{part * 100:g}") for part in _PARTS]),
    (
        "Memory",
        "bytes",
        12,
        [
            (_now(t.sandboxes_memory), "sandboxes"),
            (_now(t.process_memory), "the Worker"),
            (_quantile(t.slice_peak_memory, 0.95), "most of a slice, p95"),
        ],
    ),
    (
        "Bytes of slices",
        "Bps",
        12,
        [
            (_rate(t.slice_bytes, "direction"), "{{direction}}"),
            (_rate(t.fetched_bytes, "purpose"), "fetched {{purpose}}"),
        ],
    ),
    ("Pool", "none", 12, [(_now(t.pool_sandboxes, "state"), "{{state}}")]),
    (
        "Hand-outs from a ready sandbox",
        "percentunit",
        12,
        [
            (f"sum(rate({_HIT}[$__rate_interval])) / {_rate(t.sandbox_hand_out_time, None, '_count')}", "hits"),
        ],
    ),
    (
        "Time to hand out a sandbox",
        "s",
        12,
        [(_quantile(t.sandbox_hand_out_time, part), f"p{part * 100:g}") for part in _PARTS],
    ),
    (
        "Time to start a sandbox",
        "s",
        12,
        [(_quantile(t.sandbox_start_time, part), f"p{part * 100:g}") for part in _PARTS],
    ),
    (
        "Sandboxes that ended",
        "ops",
        12,
        [
            (_rate(t.sandboxes_ended, "cause"), "{{cause}}"),
            (_rate(t.sandboxes_recycled, "limit"), "recycled: {{limit}}"),
            (_rate(t.pool_starts_failed), "did not start"),
            (_rate(t.containers_reaped), "reaped"),
        ],
    ),
    (
        "Slices held",
        "none",
        12,
        [
            (_now(t.slices_held, "place"), "{{place}}"),
            (_now(t.outbox), "outbox"),
            (_now(t.outbox_unsafe), "results not on disk"),
            (_now(t.outbox_degraded), "workers whose disk takes no results"),
        ],
    ),
    (
        "Requests for work",
        "ops",
        12,
        [
            (_rate(t.requests), "asked"),
            (_rate(t.requests_empty), "nothing to do"),
            (_rate(t.requests_failed), "failed"),
            (_rate(t.resent), "reports sent again"),
        ],
    ),
    (
        "Fetches by outcome",
        "ops",
        12,
        [(_rate(t.fetches, "outcome"), "{{outcome}}"), (_rate(t.cache_hits), "from the cache")],
    ),
]


SCHEDULER_PANELS: Final[list[Panel]] = [
    # Is it serving?
    ("Up", "none", 4, [(f"count({prometheus_name(t.loop_lag)}{_MINE})", "processes")]),
    ("Workers", "none", 4, [(f"max({prometheus_name(t.workers_present)}{_MINE})", "workers")]),
    ("Sessions", "none", 4, [(_now(t.sessions), "sessions")]),
    ("Results per second", "ops", 4, [(_rate(t.results_received), "results")]),
    ("How late timers are", "s", 4, [(f"max({prometheus_name(t.loop_lag)}{_MINE})", "lag")]),
    ("Banned now", "none", 4, [(f"max by (of) ({prometheus_name(t.bans_now)}{_MINE})", "{{of}}")]),
    # How much?
    (
        "Slices handed out and results",
        "ops",
        12,
        [
            (_rate(t.slices_leased), "handed out"),
            (_rate(t.slices_leased_again), "of these once more, since a worker is late"),
            (_rate(t.results_received, "verdict"), "results {{verdict}}"),
        ],
    ),
    ("Requests by service", "ops", 12, [(_rate(t.request_time, "service", "_count"), "{{service}}")]),
    # How late?
    (
        "Time to an answer, without requests for work",
        "s",
        12,
        [
            (
                f"histogram_quantile({part}, sum by (le) (rate({prometheus_name(t.request_time)}_bucket"
                '{instance=~"$instance",service!="taskDistributor"}[$__rate_interval])))',
                f"p{part * 100:g}",
            )
            for part in _PARTS
        ],
    ),
    (
        "Time to settle results",
        "s",
        12,
        [(_quantile(t.settling_time, part), f"p{part * 100:g}") for part in _PARTS],
    ),
    (
        "Database transactions",
        "s",
        12,
        [
            (
                f"histogram_quantile({part}, {_rate(t.transaction_time, 'le, kind', '_bucket')})",
                f"{{{{kind}}}} p{part * 100:g}",
            )
            for part in _PARTS
        ],
    ),
    (
        "Database transactions a second",
        "ops",
        12,
        [(_rate(t.transaction_time, "kind", "_count"), "{{kind}}")],
    ),
    # What waits for what?
    (
        "The queue",
        "none",
        12,
        [
            (f"max({prometheus_name(t.jobs_with_work)}{_MINE})", "jobs with slices to hand out"),
            (_now(t.requests_waiting), "requests for work that wait"),
        ],
    ),
    (
        "Workers and their cores",
        "none",
        12,
        [
            (f"max({prometheus_name(t.workers_present)}{_MINE})", "workers"),
            (f"max({prometheus_name(t.cores_present)}{_MINE})", "cores"),
        ],
    ),
    # Who is there, who is refused, and why?
    (
        "Connections and sessions",
        "none",
        12,
        [(_now(t.connections_open), "connections"), (_now(t.sessions, "state"), "sessions {{state}}")],
    ),
    (
        "New connections and what is refused",
        "ops",
        12,
        [
            (_rate(t.connections_made), "let in"),
            (_rate(t.connections_refused, "reason"), "refused: {{reason}}"),
            (_rate(t.connections_cut, "reason"), "cut: {{reason}}"),
        ],
    ),
    (
        "Requests refused or answered with errors",
        "ops",
        12,
        [
            (_rate(t.requests_refused, "reason"), "refused: {{reason}}"),
            (_rate(t.requests_answered_with_errors, "code"), "{{code}}"),
        ],
    ),
    (
        "Offences and bans",
        "ops",
        12,
        [
            (_rate(t.offences, "of"), "offences of an {{of}}"),
            (_rate(t.messages_dropped, "reason"), "dropped: {{reason}}"),
            (_rate(t.bans_made, "of"), "bans of an {{of}}"),
        ],
    ),
    (
        "Traffic",
        "Bps",
        12,
        [(_rate(t.bytes_received), "read")],
    ),
    ("Messages", "ops", 12, [(_rate(t.messages_read), "read")]),
    # What it takes
    (
        "Memory",
        "bytes",
        12,
        [(_now(t.scheduler_memory, "instance"), "{{instance}}"), (_now(t.characters_held), "held for peers")],
    ),
    ("CPU", "none", 12, [(_rate(t.scheduler_cpu_time, "instance"), "{{instance}}")]),
    # The Bank
    ("Held for jobs", "none", 4, [(f"max({prometheus_name(t.bank_escrow)}{_MINE})", "DCC")]),
    ("Jobs with money", "none", 4, [(f"max({prometheus_name(t.bank_holds)}{_MINE})", "holds")]),
    ("Transfers in two steps", "none", 4, [(f"max({prometheus_name(t.bank_pending)}{_MINE})", "pending")]),
    (
        "Blocks behind",
        "none",
        4,
        [
            (
                f"max({prometheus_name(t.chain_height)}{_MINE}) - max({prometheus_name(t.chain_carried)}{_MINE})",
                "blocks",
            )
        ],
    ),
    (
        "Deposits on their way",
        "none",
        4,
        [(f"max({prometheus_name(t.chain_deposits_in_flight)}{_MINE})", "deposits")],
    ),
    (
        "Withdrawals on their way",
        "none",
        4,
        [(f"max by (state) ({prometheus_name(t.chain_withdrawals_in_flight)}{_MINE})", "{{state}}")],
    ),
    ("Transfers by outcome", "ops", 12, [(_rate(t.bank_transfers, "outcome"), "{{outcome}}")]),
    (
        "Time of a transfer",
        "s",
        12,
        [(_quantile(t.bank_transfer_time, part), f"p{part * 100:g}") for part in _PARTS],
    ),
    (
        "The outside chain",
        "ops",
        12,
        [
            (_rate(t.chain_deposits), "deposits"),
            (_rate(t.chain_withdrawals, "outcome"), "withdrawals {{outcome}}"),
        ],
    ),
    ("Money held over time", "none", 12, [(f"max({prometheus_name(t.bank_escrow)}{_MINE})", "DCC held for jobs")]),
]


@dataclass(frozen=True)
class Board:
    file: str
    title: str
    panels: Sequence[Panel]
    instances: t.Meter
    """who feeds it is whom it can show"""
    label: str


BOARDS: Final = (
    Board("worker.json", "DCP worker", PANELS, t.ready, "Worker"),
    Board("scheduler.json", "DCP Scheduler and Bank", SCHEDULER_PANELS, t.loop_lag, "Scheduler"),
)


def dashboard(board: Board) -> dict[str, Any]:
    """The whole dashboard, as Grafana exports one."""
    panels = []
    x = y = height = 0
    for number, (title, unit, width, queries) in enumerate(board.panels, start=1):
        if x + width > _WIDTH:
            x, y = 0, y + height
        small = width < 12
        height = 4 if small else 8
        panels.append(_panel(number, title, unit, queries, {"h": height, "w": width, "x": x, "y": y}, small=small))
        x += width
    return {
        "title": board.title,
        "uid": f"dcp-{board.file.removesuffix('.json')}",
        "tags": ["dcp"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables(board)},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(
    number: int, title: str, unit: str, queries: list[Query], place: dict[str, int], *, small: bool
) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if small else "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {} if small else {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(queries)
        ],
    }


def _variables(board: Board) -> list[dict[str, Any]]:
    known = f"label_values({prometheus_name(board.instances)}, instance)"
    return [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "instance", "type": "query", "datasource": _SOURCE, "label": board.label, "query": known,
            "definition": known, "includeAll": True, "multi": True, "refresh": 2, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]  # fmt: skip


def text(board: Board) -> str:
    return json.dumps(dashboard(board), indent=1, ensure_ascii=False) + "\n"
