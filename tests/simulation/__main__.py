"""`python -m tests.simulation`: many seeds, or one again. See docs/simulation.md."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
import time

from tests.simulation.simulation import Limits, Report, plan_of, simulate


def main(arguments: list[str] | None = None) -> int:
    """0 when every rule held for every seed."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)  # leases that expire by the hundreds are no news here
    limits = Limits(
        options.workers, options.jobs, options.slices, options.minutes, in_memory=options.memory, least=options.least
    )
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    failed: list[Report] = []
    totals: dict[str, float] = {}
    started = time.monotonic()
    for seed in seeds:
        report = simulate(plan_of(seed, limits))
        for name, value in report.figures.items():
            totals[name] = round(totals.get(name, 0) + value, 3)
        if options.log is not None:
            options.log.write_text("\n".join([*report.log, ""]))
        if report.violation is not None:
            failed.append(report)
            if options.output == "text":
                print(f"seed {seed}: {report.violation}\nagain: {command(seed, limits)} --log seed-{seed}.log")
            if not options.keep_going:
                break
        elif options.output == "text" and options.seed is None and sys.stderr.isatty():
            print(f"\rseed {seed}", end="", file=sys.stderr)
    summary = {
        "seeds": len(seeds),
        "failed": [{"seed": one.seed, "rule": one.violation, "again": command(one.seed, limits)} for one in failed],
        "seconds": round(time.monotonic() - started, 1),
        "totals": totals,
    }
    if options.seed is not None:
        summary["log"] = report.digest
    if options.output == "json":
        print(json.dumps(summary, indent=2))
    else:
        figures = ", ".join(f"{value:,.0f} {name}" for name, value in totals.items())
        print(f"{len(seeds)} seeds, {len(failed)} broken; {figures}; {summary['seconds']} s")
    return 1 if failed else 0


def command(seed: int, limits: Limits) -> str:
    """What to type to see the same again."""
    parts = [f"python -m tests.simulation --seed {seed}"]
    usual = Limits()
    for flag, value, default in (
        ("--workers", limits.workers, usual.workers),
        ("--jobs", limits.jobs, usual.jobs),
        ("--slices", limits.slices, usual.slices),
        ("--minutes", limits.fault_minutes, usual.fault_minutes),
        ("--least", limits.least, usual.least),
    ):
        if value != default:
            parts.append(f"{flag} {value}")
    if limits.in_memory:
        parts.append("--memory")
    return " ".join(parts)


def _parser() -> argparse.ArgumentParser:
    usual = Limits()
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Scheduler and Bank under faults.")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many seeds (200)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="only this one, again")
    parser.add_argument("--workers", type=int, default=usual.workers, help=f"at most so many ({usual.workers})")
    parser.add_argument("--jobs", type=int, default=usual.jobs, help=f"at most so many ({usual.jobs})")
    parser.add_argument("--slices", type=int, default=usual.slices, help=f"at most so many per job ({usual.slices})")
    parser.add_argument(
        "--minutes", type=float, default=usual.fault_minutes,
        help=f"virtual minutes of faults, about ({usual.fault_minutes:g})",
    )  # fmt: skip
    parser.add_argument(
        "--least", type=float, default=usual.least, metavar="PART",
        help="of these numbers of workers and jobs every seed has at least this part (0)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true",
        help="rows in memory instead of SQLite, one scheduler process: for thousands of workers",
    )  # fmt: skip
    parser.add_argument("--log", type=pathlib.Path, metavar="FILE", help="write the event log of the (last) seed")
    parser.add_argument("--keep-going", action="store_true", help="go on after a broken rule")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
