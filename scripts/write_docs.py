"""Rewrite the generated parts of docs/ and the dashboards: `python -m scripts.write_docs`, `--check` only compares.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable, Mapping

from orchestrator import telemetry
from orchestrator.configuration.showing import as_markdown
from orchestrator.exporting.text import prometheus_name
from orchestrator.settings import COMPONENTS
from scripts import grafana, log_events

ROOT = pathlib.Path(__file__).parent.parent
_PART = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)

DASHBOARDS = {ROOT / "deploy" / "grafana" / board.file: board for board in grafana.BOARDS}


def metrics_table(prefix: str) -> str:
    """The metrics whose names begin with `prefix`."""
    rows = ["| metric | in Prometheus | kind | unit | meaning | labels |", "|---|---|---|---|---|---|"]
    for meter in telemetry.METERS:
        if meter.name.startswith(prefix):
            labels = ", ".join(f"`{label}`" for label in meter.labels)
            cells = (
                f"`{meter.name}`",
                f"`{prometheus_name(meter)}`",
                meter.kind,
                meter.unit,
                meter.description,
                labels,
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


PARTS: Mapping[str, Callable[[], str]] = {
    **{f"settings {name}": (lambda model=model: as_markdown(model)) for name, model in COMPONENTS.items()},
    "metrics worker": lambda: metrics_table("dcp.worker."),
    "metrics scheduler": lambda: metrics_table("dcp.scheduler."),
    "metrics bank": lambda: metrics_table("dcp.bank."),
    "log events": log_events.table,
}


def rewritten(text: str) -> str:
    """The text of a page with its generated parts as they should be. Raises KeyError for a part nobody makes."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[4]}", text)


def main() -> None:
    wanted = {path: rewritten(path.read_text()) for path in sorted((ROOT / "docs").glob("*.md"))}
    wanted |= {path: grafana.text(board) for path, board in DASHBOARDS.items()}
    stale = []
    for path, after in wanted.items():
        before = path.read_text() if path.exists() else ""
        if after != before:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after)
    print(f"{'stale' if '--check' in sys.argv else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
