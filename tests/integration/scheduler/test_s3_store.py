"""Values in an S3-compatible store: what goes over the wire, against a small store of the tests' own."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from xml.sax.saxutils import escape

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from orchestrator.scheduler.blobs import BlobAway, Blobs
from orchestrator.scheduler.s3 import Bucket, S3Blobs, authorization

BIG = "é" * 3000


class Store:
    """Keeps objects in memory and refuses what is not signed with its key."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.bucket = Bucket("", "values", "dcp/here", "eu-1", "key", "secret")

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = {name: request.headers[name] for name in ("host", "x-amz-content-sha256", "x-amz-date")}
        path = request.rel_url.raw_path
        wanted = authorization(
            self.bucket, method=request.method, path=path, query=dict(request.query), headers=signed,
            moment=signed["x-amz-date"],
        )  # fmt: skip
        if (
            request.headers["Authorization"] != wanted
            or signed["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest()
        ):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        key = request.match_info["key"]
        if request.method == "PUT":
            self.objects[key] = body
        elif request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        elif request.query.get("list-type") == "2":
            keys = [one for one in sorted(self.objects) if one.startswith(request.query["prefix"])][:2]
            inner = "".join(f"<Contents><Key>{escape(one)}</Key></Contents>" for one in keys)
            space = "http://s3.amazonaws.com/doc/2006-03-01/"
            return web.Response(text=f'<ListBucketResult xmlns="{space}">{inner}</ListBucketResult>')
        elif key not in self.objects:
            return web.Response(status=404)
        return web.Response(body=self.objects.get(key, b"") if request.method == "GET" else b"")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def url(store: Store) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/values/{key:.*}", store.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


def _blobs(url: str, store: Store, secret: str = "secret") -> Blobs:
    bucket = Bucket(url, "values", "dcp/here", store.bucket.region, store.bucket.access_key, secret)
    return Blobs(S3Blobs(bucket), 2000)


async def test_values_are_put_read_and_dropped(url: str, store: Store) -> None:
    blobs = _blobs(url, store)
    marks = await blobs.stash("job1", [BIG, "small", BIG + "2", BIG + "3"])
    assert marks[1] == "small"
    assert len(store.objects) == 3
    assert all(key.startswith("dcp/here/job1/") for key in store.objects)
    [other] = await blobs.stash("job10", [BIG])
    assert await blobs.resolve("job1", marks[2]) == BIG + "2"
    await blobs.drop("job1")
    assert len(store.objects) == 1
    assert await blobs.resolve("job10", other) == BIG
    with pytest.raises(BlobAway) as gone:
        await blobs.resolve("job1", marks[0])
    assert not gone.value.retryable
    await blobs.close()


async def test_a_store_that_refuses_or_is_not_there(url: str, store: Store) -> None:
    for blobs in (_blobs(url, store, "wrong"), _blobs("http://127.0.0.1:1", store)):
        with pytest.raises(BlobAway) as away:
            await blobs.stash("job1", [BIG])
        assert away.value.retryable
        await blobs.close()
    assert store.objects == {}
