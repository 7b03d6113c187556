"""What documentation says of settings is what the models say: `make docs` rewrites what is stale."""

from __future__ import annotations

import re
import tomllib

import pytest

from orchestrator.configuration import file
from orchestrator.settings import COMPONENTS
from scripts import write_docs

PAGES = sorted((write_docs.ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_generated_parts_are_fresh(path):
    remedy = "run `make docs`, or python -m scripts.write_docs"
    assert write_docs.rewritten(path.read_text()) == path.read_text(), remedy


def test_every_part_is_on_a_page():
    text = "".join(path.read_text() for path in PAGES)
    assert set(re.findall("<!-- generated: (.+?) -->", text)) == set(write_docs.PARTS)


def test_the_example_is_a_settings_file(tmp_path):
    text = (write_docs.ROOT / "docs" / "settings.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(example)
    path.chmod(0o600)
    read = file.read(path, COMPONENTS)
    for table, keys in tomllib.loads(example).items():
        assert COMPONENTS[table](**keys)
    assert set(read.tables) == {"worker", "scheduler"}
