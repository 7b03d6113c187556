"""Rewrite the generated parts of docs/: `python -m scripts.write_docs`, or `--check` to only compare.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable, Mapping

from orchestrator.configuration.showing import as_markdown
from orchestrator.settings import COMPONENTS

ROOT = pathlib.Path(__file__).parent.parent
_PART = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)

PARTS: Mapping[str, Callable[[], str]] = {
    f"settings {name}": (lambda model=model: as_markdown(model)) for name, model in COMPONENTS.items()
}


def rewritten(text: str) -> str:
    """The text of a page with its generated parts as they should be. Raises KeyError for a part nobody makes."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[4]}", text)


def main() -> None:
    stale = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        before = path.read_text()
        after = rewritten(before)
        if after != before:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after)
    print(f"{'stale' if '--check' in sys.argv else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
