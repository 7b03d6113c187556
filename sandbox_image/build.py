"""Build the Evaluator image: ``python -m sandbox_image.build``.

From scratch: the Node binary, the six libraries it needs with their loader, the host program, the licences, and nothing
else. The same inputs give the same image id; an image with the same inputs that is already loaded is left alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import docker
import docker.errors
import requests.exceptions

from sandbox_image import archive, elf, sources

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = ROOT / "build" / "sandbox_image"
DEFAULT_TAG = "dcp-evaluator:local"
INPUTS_LABEL = "org.dcp-orchestrator.inputs"
LICENCES = "MIT AND LicenseRef-Node AND LGPL-2.1-or-later AND GPL-3.0-with-GCC-exception"
RECIPE = 1  # raise when the recipe makes something else of the same inputs


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what the image is."""

    node_sha256: str
    packages: tuple[sources.Package, ...]
    program: tuple[archive.ImageFile, ...]
    architecture: str

    def digest(self) -> str:
        """One digest over all of them."""
        parts = [str(RECIPE), self.architecture, sources.NODE_VERSION, self.node_sha256]
        parts += [f"{package.name} {package.version} {package.sha256}" for package in self.packages]
        parts += [f"{file.path} {hashlib.sha256(file.content).hexdigest()}" for file in self.program]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def flags() -> list[str]:
    """Node's flags that are part of the host program."""
    found: list[str] = json.loads((HERE / "host" / "flags.json").read_text())
    return found


def program_files() -> tuple[archive.ImageFile, ...]:
    """The host program and our own licence."""
    paths = sorted(path for path in (HERE / "host").rglob("*") if path.suffix in {".js", ".json"})
    files = [archive.ImageFile(str(path.relative_to(HERE)), path.read_bytes()) for path in paths]
    return (*files, archive.ImageFile("licenses/dcp-orchestrator", (ROOT / "LICENSE").read_bytes()))


class Recipe:
    """The parts at hand and what they make."""

    def __init__(self, cache: Path = CACHE, *, update: bool = False) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._node = sources.NodeSource(cache)
        self._libraries = sources.LibrarySource(cache)
        self._machine = sources.machine()
        packages = ([] if update else self._libraries.known()) or self._libraries.fetch()
        self.inputs = Inputs(self._node.sha256(), tuple(packages), program_files(), self._machine.architecture)

    def build(self) -> archive.Image:
        """Make the image from the parts, in memory."""
        binary = self._node.binary()
        engine = archive.make_layer(
            [
                archive.ImageFile("node", elf.loaded_part(binary), executable=True),
                archive.ImageFile("licenses/node", self._node.licence()),
                *self._libraries.files(list(self.inputs.packages), self._machine, elf.interpreter(binary)),
            ]
        )
        program = archive.make_layer(self.inputs.program)
        config = {
            "Entrypoint": ["/node", *flags(), "/host/main.js"],
            "User": "65534:65534",
            "WorkingDir": "/",
            "Env": ["PATH=/"],
            "Labels": {
                INPUTS_LABEL: self.inputs.digest(),
                "org.opencontainers.image.title": "DCP Evaluator",
                "org.opencontainers.image.licenses": LICENCES,
                "org.dcp-orchestrator.licenses": "/licenses",
                "org.dcp-orchestrator.node": sources.NODE_VERSION,
                "org.dcp-orchestrator.libraries": ", ".join(f"{p.name} {p.version}" for p in self.inputs.packages),
            },
        }
        return archive.make_image([engine, program], self._machine.architecture, config)


def load(client: docker.DockerClient, image: archive.Image, tag: str) -> None:
    """Give an image to the Docker Engine. Raises BuildError if what arrives is not what was sent."""
    client.images.load(archive.docker_archive(image, tag))
    loaded = client.images.get(tag)
    if loaded.id != image.id:
        raise sources.BuildError(f"Docker loaded {loaded.id} instead of {image.id}")


def describe(tag: str, loaded: Any, recipe: Recipe, *, built: bool, seconds: float) -> dict[str, Any]:
    """What the command prints."""
    return {
        "tag": tag,
        "id": loaded.id,
        "size": loaded.attrs["Size"],
        "built": built,
        "seconds": round(seconds, 2),
        "inputs": {
            "digest": recipe.inputs.digest(),
            "node": {"version": sources.NODE_VERSION, "sha256": recipe.inputs.node_sha256},
            "packages": [{"name": p.name, "version": p.version, "sha256": p.sha256} for p in recipe.inputs.packages],
        },
    }


def ensure(tag: str, *, update: bool = False, force: bool = False) -> dict[str, Any]:
    """Have the image in the Docker Engine under ``tag``; build it if it is not there with these inputs.

    Raises BuildError with what to do when a part or the Docker Engine is missing.
    """
    started = time.monotonic()
    recipe = Recipe(update=update)
    try:
        client = docker.from_env(timeout=120)
        try:
            present = client.images.get(tag)
        except docker.errors.ImageNotFound:
            present = None
        built = force or present is None or present.labels.get(INPUTS_LABEL) != recipe.inputs.digest()
        if built:
            load(client, recipe.build(), tag)
        return describe(tag, client.images.get(tag), recipe, built=built, seconds=time.monotonic() - started)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise sources.BuildError(
            f"the Docker Engine does not answer ({error}); is it running, may this user use it?"
        ) from error


def check() -> str:
    """Build twice from the same inputs; the one id of both. Raises BuildError if they differ."""
    first, second = Recipe().build().id, Recipe().build().id
    if first != second:
        raise sources.BuildError(f"two builds of the same inputs differ: {first} and {second}")
    return first


@click.command()
@click.option("--tag", default=DEFAULT_TAG, show_default=True, help="Name of the image.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", help="How to print what was built.")
@click.option("--check", "only_check", is_flag=True, help="Build twice without loading and compare the image ids.")
@click.option("--update", is_flag=True, help="Look for newer library packages.")
@click.option("--force", is_flag=True, help="Build and load even if the image is there.")
def main(tag: str, output: str, *, only_check: bool, update: bool, force: bool) -> None:
    """Build the Evaluator image and load it into the Docker Engine."""
    try:
        if only_check:
            click.echo(f"reproducible: {check()}")
            return
        result = ensure(tag, update=update, force=force)
    except sources.BuildError as error:
        click.echo(f"image: {error}", err=True)
        sys.exit(1)
    if output == "json":
        click.echo(json.dumps(result))
        return
    state = "built" if result["built"] else "up to date"
    click.echo(f"{result['tag']}  {result['id']}  {result['size'] / 1e6:.1f} MB  ({state}, {result['seconds']} s)")
    node, packages = result["inputs"]["node"], result["inputs"]["packages"]
    click.echo(f"  Node {node['version']} sha256:{node['sha256'][:16]}…")
    for package in packages:
        click.echo(f"  {package['name']} {package['version']} sha256:{package['sha256'][:16]}…")


if __name__ == "__main__":
    main()
