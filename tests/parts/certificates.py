"""Certificates of the tests' own, for loopback."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess


@dataclasses.dataclass(frozen=True)
class Certificate:
    certificate: pathlib.Path
    key: pathlib.Path

    @classmethod
    def create(cls, folder: pathlib.Path) -> Certificate:
        """A self-signed one for 127.0.0.1 and localhost."""
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            ],
            cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return cls(folder / "cert.pem", folder / "key.pem")
