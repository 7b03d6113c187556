"""What pages name is there: files and modules, commands and their flags, targets of make."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator

import click
import pytest

from orchestrator.cli.main import cli

ROOT = pathlib.Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Flags of other programs, and of our commands that are run as `python -m …`. Put new ones here.
OTHERS = {
    *("--format", "--dbname"),  # PostgreSQL's
    *("--network", "--oci-seccomp", "--ignore-cgroups", "--platform"),  # runsc's
    *("--hostname", "--payment"),  # dcp-worker's
    *("--minutes", "--no-bans", "--seed", "--versus", "--world"),  # benchmarks'
    *("--postgres",),  # pytest's here
    *("--seeds", "--keep-going", "--least", "--workers", "--slices", "--log"),  # the simulator's
}
#: Files of other programs, and those that a Worker writes.
ELSEWHERE = {
    "/etc/docker/daemon.json",
    "/etc/dcp-orchestrator/config.toml",
    "/usr/share/docker.io/contrib/dockerd-rootless.sh",
    "identity-cache.json",
    "trusted-images.json",
}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


@pytest.fixture(scope="module")
def ours() -> dict[tuple[str, ...], click.Command]:
    return dict(commands(cli))


@pytest.fixture(scope="module")
def files() -> set[str]:
    """Every file that is kept, by each end of its path: `orchestrator/errors.py`, `errors.py`."""
    found: set[str] = set()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [one for one in folders if one not in ("node_modules", "__pycache__") and not one.startswith(".")]
        for name in names:
            parts = (pathlib.Path(folder) / name).relative_to(ROOT).parts
            found.update("/".join(parts[start:]) for start in range(len(parts)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags(page: pathlib.Path, ours: dict[tuple[str, ...], click.Command]) -> None:
    known = {flag for command in ours.values() for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text()))
    assert named - known - OTHERS - {"--help"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: pathlib.Path, ours: dict[tuple[str, ...], click.Command]) -> None:
    for words in re.findall(r"(?<!\")dcp-orchestrator((?: [a-z][a-z-]*(?:\\?\|[a-z][a-z-]*)*)+)", page.read_text()):
        path: tuple[str, ...] = ()
        for word in words.split():
            if not isinstance(ours[path], click.Group):
                break
            for name in re.split(r"\\?\|", word):
                assert (*path, name) in ours, f"dcp-orchestrator{words}"
            path = (*path, re.split(r"\\?\|", word)[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules(page: pathlib.Path, files: set[str]) -> None:
    text = page.read_text()
    named = set(re.findall(r"`([\w./-]+\.(?:py|json|js|cjs|toml|md|sol|sh))`", text)) - ELSEWHERE
    named |= {link.partition("#")[0] for link in re.findall(r"\]\(([\w./#-]+)\)", text)} - {""}
    strange = {name for name in named if name not in files and not (page.parent / name).exists()}
    assert strange == set()
    modules = re.findall(r"-m ((?:orchestrator|benchmarks|tests|scripts|sandbox_image)\.[a-z_.]+[a-z])", text)
    for path in (module.replace(".", "/") for module in modules):
        assert f"{path}.py" in files or f"{path}/__main__.py" in files, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make(page: pathlib.Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for name in re.findall(r"\bB=([a-z_]+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").exists() or (ROOT / "benchmarks" / name).is_dir(), name
