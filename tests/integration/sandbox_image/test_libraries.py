"""Where the image's libraries come from, on machines whose package lists are missing or old."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess

import pytest

from sandbox_image.sources import BuildError, LibrarySource, Package

CACHE = pathlib.Path(__file__).parents[3] / "build" / "sandbox_image"


@pytest.fixture
def packages() -> list[Package]:
    known = LibrarySource(CACHE).known()
    if not known:
        pytest.skip("no packages in build/sandbox_image: run `make image`")
    return known


@pytest.fixture
def repository(tmp_path: pathlib.Path, packages: list[Package], monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A package repository in a folder, the only one that apt knows, and not listed yet."""
    folder = tmp_path / "repository"
    folder.mkdir()
    entries = []
    for package in packages:
        copy = pathlib.Path(shutil.copy(CACHE / package.file, folder))
        fields = subprocess.run(["dpkg-deb", "-f", copy], check=True, capture_output=True, text=True).stdout
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        entries.append(f"{fields}Filename: ./{copy.name}\nSize: {copy.stat().st_size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(entries))
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return folder


def test_without_package_lists_it_gets_its_own(
    tmp_path: pathlib.Path, repository: pathlib.Path, packages: list[Package]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    source = LibrarySource(cache)
    assert [(one.name, one.sha256) for one in source.fetch()] == [(one.name, one.sha256) for one in packages]
    assert len(source.known()) == len(packages)
    assert list((tmp_path / "lists").iterdir()) == [tmp_path / "lists" / "partial"], "the machine's lists are not ours"


def test_a_package_that_was_tampered_with(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    victim = next(repository.glob("libgcc*.deb"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    (tmp_path / "cache").mkdir()
    with pytest.raises(BuildError):
        LibrarySource(tmp_path / "cache").fetch()
