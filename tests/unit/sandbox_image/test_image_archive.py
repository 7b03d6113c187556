"""The image archive is the same bytes for the same files, and what Docker expects."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile

import pytest

from sandbox_image import archive, elf

FILES = [
    archive.ImageFile("host/main.js", b"1"),
    archive.ImageFile("node", b"\x7fELF", executable=True),
    archive.ImageFile("host/realm/a.js", b"2"),
]


def test_order_of_files_does_not_matter():
    assert archive.make_layer(FILES).tar == archive.make_layer(reversed(FILES)).tar


def test_layer_has_sorted_entries_without_owner_or_time():
    with tarfile.open(fileobj=io.BytesIO(archive.make_layer(FILES).tar)) as layer:
        entries = layer.getmembers()
    assert [entry.name for entry in entries] == ["host", "host/main.js", "host/realm", "host/realm/a.js", "node"]
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries} == {(0, 0, "", 0)}
    assert {entry.name: entry.mode for entry in entries if entry.isfile()} == {
        "host/main.js": 0o444,
        "host/realm/a.js": 0o444,
        "node": 0o555,
    }


def test_id_is_the_digest_of_the_config_and_follows_the_contents():
    layer = archive.make_layer(FILES)
    image = archive.make_image([layer], "amd64", {"User": "65534:65534"})
    assert image.id == "sha256:" + hashlib.sha256(image.config).hexdigest()
    assert json.loads(image.config)["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer.tar).hexdigest()]
    changed = archive.make_layer([*FILES[1:], archive.ImageFile("host/main.js", b"other")])
    assert archive.make_image([changed], "amd64", {"User": "65534:65534"}).id != image.id


def test_archive_names_config_layers_and_tag():
    image = archive.make_image([archive.make_layer(FILES)], "amd64", {})
    with tarfile.open(fileobj=io.BytesIO(archive.docker_archive(image, "some:tag"))) as packed:
        manifest = json.load(packed.extractfile("manifest.json"))[0]
        assert packed.extractfile(manifest["Config"]).read() == image.config
        assert packed.extractfile(manifest["Layers"][0]).read() == image.layers[0].tar
    assert manifest["RepoTags"] == ["some:tag"]


def _elf(body: bytes) -> bytes:
    """A 64-bit ELF file: an interpreter segment, a load segment over header and body, and a tail that is not loaded."""
    loader = b"/lib64/ld.so\0"
    start = 64 + 2 * 56
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 9999, 0, 64, 56, 2, 64, 40, 39)
    interp = struct.pack("<IIQQQQQQ", 3, 4, start, 0, 0, len(loader), len(loader), 1)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, start + len(loader) + len(body), 0, 1)
    return header + interp + load + loader + body + b"symbols and sections"


def test_only_the_loaded_part_of_a_binary_is_kept():
    binary = _elf(b"code")
    kept = elf.loaded_part(binary)
    assert kept.endswith(b"code")
    assert kept[64:] == binary[64 : len(kept)]
    section_offset, section_count, names_index = (
        struct.unpack_from("<Q", kept, 40)[0],
        *struct.unpack_from("<HH", kept, 60),
    )
    assert (section_offset, section_count, names_index) == (0, 0, 0)
    assert elf.loaded_part(kept) == kept


def test_loader_is_read_from_the_binary():
    assert elf.interpreter(_elf(b"")) == "/lib64/ld.so"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60)])
def test_other_files_are_refused(content: bytes):
    with pytest.raises(elf.NotElf):
        elf.loaded_part(content)
