"""Deterministic image archives, written by hand.

The same files give the same bytes, hence the same image id: entries are sorted, owners and times are zero, and nothing
of the machine that builds gets in. The format is what ``docker load`` reads: the layers, a config and a manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class ImageFile:
    """One regular file of an image; ``path`` is relative to the root."""

    path: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer: its tar and the digest by which the config names it."""

    tar: bytes
    diff_id: str


@dataclass(frozen=True)
class Image:
    """A whole image: ``id`` is the digest of its config, as Docker shows it."""

    id: str
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(len(layer.tar) for layer in self.layers)


def make_layer(files: Iterable[ImageFile]) -> Layer:
    """Pack files and the folders they need, in sorted order."""
    by_path = {file.path: file for file in files}
    folders = {str(parent) for path in by_path for parent in PurePosixPath(path).parents if str(parent) != "."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folders | by_path.keys()):
            entry = tarfile.TarInfo(path)
            if path in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                file = by_path[path]
                entry.size, entry.mode = len(file.content), 0o555 if file.executable else 0o444
                archive.addfile(entry, io.BytesIO(file.content))
    tar = buffer.getvalue()
    return Layer(tar, "sha256:" + hashlib.sha256(tar).hexdigest())


def make_image(layers: Iterable[Layer], architecture: str, config: Mapping[str, Any]) -> Image:
    """Describe layers as an image that runs as ``config`` says (the fields of Docker's container config)."""
    ordered = tuple(layers)
    description = {
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in ordered]},
        "history": [{"created": EPOCH, "created_by": "sandbox_image.build"} for _ in ordered],
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    return Image("sha256:" + hashlib.sha256(text).hexdigest(), text, ordered)


def docker_archive(image: Image, tag: str) -> bytes:
    """The archive that ``docker load`` takes."""
    config_name = image.id.removeprefix("sha256:") + ".json"
    layer_names = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in image.layers]
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": layer_names}]
    members = {
        config_name: image.config,
        "manifest.json": json.dumps(manifest).encode(),
        **{name: layer.tar for name, layer in zip(layer_names, image.layers, strict=True)},
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()
