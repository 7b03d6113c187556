"""Where big values are, by the settings."""

from __future__ import annotations

import pathlib
from typing import Final

from orchestrator.errors import InvalidInput
from orchestrator.scheduler.blobs import BlobStore, DiskBlobs
from orchestrator.scheduler.s3 import Bucket, S3Blobs
from orchestrator.settings import SchedulerSettings

OFF: Final = "off"
_BLOBS: Final = "blobs"


def place_of(settings: SchedulerSettings, *, is_shared: bool) -> str:
    """`off`, a folder, or `s3://…`. A folder of one machine is of no use to processes on others: with a shared database
    it is taken only when it is named."""
    if settings.blob_store is not None:
        return settings.blob_store
    return OFF if is_shared else str(settings.state_dir / _BLOBS)


def store_at(place: str, settings: SchedulerSettings) -> BlobStore | None:
    """None when it is off. Raises `InvalidInput`; must be called inside a running event loop."""
    if place == OFF:
        return None
    if not place.startswith("s3://"):
        return DiskBlobs(pathlib.Path(place))
    name, _, prefix = place.removeprefix("s3://").partition("/")
    if not name or not settings.s3_access_key or not settings.s3_secret_key:
        raise InvalidInput(f"blob_store is {place}; it needs a bucket's name, s3_access_key and s3_secret_key")
    keys = (settings.s3_region, settings.s3_access_key, settings.s3_secret_key)
    return S3Blobs(Bucket(settings.s3_endpoint, name, prefix, *keys))
