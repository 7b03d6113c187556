"""Which rules the audit demands, and where: `python -m tests.simulation.rules` writes them into docs/simulation.md."""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
AUDIT = ROOT / "tests" / "simulation" / "audit.py"
PAGE = ROOT / "docs" / "simulation.md"
_BEGIN, _END = "<!-- rules -->\n", "<!-- end of rules -->"
_WHEN = {
    "end": "at the end", "_check_commissions": "at the end", "answered": "every answer",
    "_check_verdict": "every answer", "_look_at_all": "every 500 commits, or as many as there are slices",
}  # fmt: skip


def rules() -> list[tuple[str, str, int]]:
    """(rule, when, line) in the order of the file."""
    found = []
    for function in ast.walk(ast.parse(AUDIT.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_demand":
                    rule = node.args[1]
                    assert isinstance(rule, ast.Constant)
                    found.append((str(rule.value), _WHEN.get(function.name, "every commit"), node.lineno))
    return sorted(found, key=lambda one: one[2])


def rewritten(page: str) -> str:
    """The page with the rules as they are now."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    table = "".join(f"| {rule} | {when} | `audit.py:{line}` |\n" for rule, when, line in rules())
    return f"{head}{_BEGIN}| rule | checked after | where |\n|---|---|---|\n{table}{_END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
