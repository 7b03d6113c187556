"""Values in any store that speaks S3: four requests, signed with AWS Signature Version 4."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from urllib.parse import quote

import aiohttp
from yarl import URL

_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """`endpoint` is `https://host[:port]`; the bucket is part of the path, which every store understands."""

    endpoint: str
    name: str
    prefix: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = dataclasses.field(default="", repr=False)


def authorization(
    bucket: Bucket, *, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], moment: str
) -> str:
    """Pure: the header of that name. `path` is percent-encoded; `moment` is as in `x-amz-date`; `headers` are those
    that are signed, in lower case, with `x-amz-content-sha256` among them."""
    signed = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(
                f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items())
            ),
            "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers)),
            signed,
            headers["x-amz-content-sha256"],
        ]
    )
    scope = f"{moment[:8]}/{bucket.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{bucket.secret_key}".encode()
    for part in (moment[:8], bucket.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={bucket.access_key}/{scope},SignedHeaders={signed},Signature={signature}"


class S3Blobs:
    """See `blobs.BlobStore`. Must be made inside a running event loop."""

    def __init__(self, bucket: Bucket, clock: Callable[[], float] = time.time) -> None:
        self._bucket = bucket
        self._clock = clock
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT)

    async def put(self, job: str, name: str, data: bytes) -> None:
        await self._request("PUT", self._key(job, name), data=data)

    async def get(self, job: str, name: str) -> bytes | None:
        return await self._request("GET", self._key(job, name))

    async def drop(self, job: str) -> None:
        prefix = self._key(job, "")
        while True:
            listing = await self._request("GET", "", query={"list-type": "2", "prefix": prefix}) or b""
            keys = _keys(listing)
            for key in keys:
                await self._request("DELETE", key)
            if not keys:
                return

    async def close(self) -> None:
        await self._http.close()

    def _key(self, job: str, name: str) -> str:
        return "/".join(part for part in (self._bucket.prefix.strip("/"), job) if part) + f"/{name}"

    async def _request(
        self, method: str, key: str, *, query: Mapping[str, str] | None = None, data: bytes = b""
    ) -> bytes | None:
        """The answer's body; None when there is no such thing. Raises OSError."""
        bucket, query = self._bucket, query or {}
        path = f"/{quote(bucket.name)}/{quote(key, safe='/-_.~')}"
        moment = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "host": re.sub(r"^https?://", "", bucket.endpoint).rstrip("/"),
            "x-amz-content-sha256": hashlib.sha256(data).hexdigest() if data else _EMPTY,
            "x-amz-date": moment,
        }
        headers["Authorization"] = authorization(
            bucket, method=method, path=path, query=query, headers=headers, moment=moment
        )
        search = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items())
        )
        url = URL(f"{bucket.endpoint.rstrip('/')}{path}{'?' + search if search else ''}", encoded=True)
        try:
            async with self._http.request(method, url, data=data or None, headers=headers) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{method} {url}: {error!r}") from error
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise OSError(f"{method} {url}: {answer.status} {body[:300].decode(errors='replace')}")
        return body


def _keys(listing: bytes) -> list[str]:
    if not listing:
        return []
    tree = ET.fromstring(listing)  # noqa: S314 — from the store that holds all our values
    return [one.text or "" for one in tree.iter() if one.tag.rpartition("}")[2] == "Key"]
