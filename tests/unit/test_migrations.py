"""Migrations that were written beside each other must stand in one line."""

from __future__ import annotations

import pathlib

import alembic.config
import alembic.script

import orchestrator.migrations

FOLDER = pathlib.Path(next(iter(orchestrator.migrations.__path__)))


def test_they_follow_one_another_as_they_are_numbered() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = alembic.script.ScriptDirectory.from_config(config)
    assert len(scripts.get_heads()) == 1, "two follow the same one: renumber the newer, and set its down_revision"
    names = [script.revision for script in scripts.walk_revisions()][::-1]
    assert names == sorted(path.stem for path in (FOLDER / "versions").glob("*.py"))
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
