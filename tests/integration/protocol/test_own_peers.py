"""Our client and our server together, and raw peers that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from orchestrator import kvin
from orchestrator.errors import InvalidInput, NetworkFailure, NotFound
from orchestrator.protocol import client_socket, config, signing
from orchestrator.protocol.client import ClientConnection, ClientLimits, DcpClient, fetch_config
from orchestrator.protocol.errors import ConnectionClosed, ConnectionLost, PeerChanged, RemoteError
from orchestrator.protocol.framing import FramingLimits
from orchestrator.protocol.server import DcpServer, Request, ServerLimits
from orchestrator.protocol.vocabulary import SessionLimits
from orchestrator.wallet.keys import PrivateKey

FAST = ClientLimits(first_delay=0.01, longest_delay=0.05)


class Batches:
    """Remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    async def handle(self, request: Request) -> Any:
        raise AssertionError("a service with handle_batch gets batches")

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any]:
        self.batches.append([request.data for request in requests])
        match requests[0].operation:
            case "miscount":
                return []
            case "raise":
                raise NotFound("nothing here")
        return [NotFound(f"no {request.data}") if request.data == 13 else request.data for request in requests]


class Echo:
    def __init__(self) -> None:
        self.closed: list[str] = []
        self.blocked = asyncio.Event()
        self.cancelled = 0
        self.large = 0

    async def handle(self, request: Request) -> Any:
        connection = request.connection
        match request.operation:
            case "block":
                self.blocked.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled += 1
            case "watch":
                connection.on_close(lambda error: self.closed.append(error.code))
            case "dialect":
                return [connection.service, connection.dialect, connection.peer == request.peer]
            case "large":
                self.large += 1
                return "x" * 20_000_000
            case "call":
                return await connection.request("called", request.data)
        return request.data


class Setup:
    """A server with a clock that stands still, and clients for it."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.now = 1_800_000_000.0
        self.stack = contextlib.AsyncExitStack()
        self.identity = PrivateKey.generate()
        self.batches, self.echo = Batches(), Echo()
        services = {"batches": self.batches, "echo": self.echo}
        self.server = DcpServer(self.identity, services, self.config_text, limits=limits, clock=lambda: self.now)

    def config_text(self, version: Any, _origin: str) -> str:
        return config.config_text(config.build_config(self.url()), version)

    def url(self, service: str = "") -> str:
        return f"http://127.0.0.1:{self.server.port}/{service}{'/' if service else ''}"

    def client(self, key: PrivateKey | None = None, cache: pathlib.Path | None = None) -> DcpClient:
        return DcpClient(key or PrivateKey.generate(), cache, limits=FAST, clock=lambda: self.now)


@pytest.fixture
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    made = Setup(getattr(request, "param", None))
    async with made.stack:
        await made.stack.enter_async_context(made.server)
        await made.server.listen()
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


# --- batches


async def test_a_batch_is_handed_over_whole_and_answered_whole(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("batches"))
        await connection.request("first", 0)
        answers = await asyncio.gather(*(connection.request("op", i) for i in range(90)), return_exceptions=True)
        assert isinstance(answers[13], RemoteError)
        assert (answers[13].code, answers[13].message) == ("ENOENT", "no 13")
        assert answers[:13] + answers[14:] == [*range(13), *range(14, 90)]
        assert setup.batches.batches == [[0], list(range(90))]
        (served,) = setup.server.connections
        assert served.statistics()["batches_out"] == 1


@pytest.mark.parametrize(("operation", "code"), [("miscount", "EINTERNAL"), ("raise", "ENOENT")])
async def test_a_failing_batch_handler_fails_its_requests_only(
    setup: Setup, operation: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("batches"))
        answers = await asyncio.gather(*(connection.request(operation, i) for i in range(3)), return_exceptions=True)
        assert [getattr(answer, "code", None) for answer in answers] == [code] * 3
        assert await connection.request("op", 1) == 1


# --- sessions


async def test_both_paths_and_who_is_there(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        assert await connection.request("dialect") == ["echo", 5, True]
        assert connection.peer == setup.identity.address
        monkeypatch.setattr(client_socket, "_PATH_SUFFIX", "")
        assert await client.connect(setup.url("echo")).request("dialect") == ["echo", 4, True]


# The library that the test uses as a client does what aiohttp warns of.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_large_messages_over_polling(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "_TRANSPORTS", ["polling"])
    text = "é\U0001f600" * 150_000
    async with setup.client() as client:
        assert await client.connect(setup.url("echo")).request("op", text) == text


async def test_a_dropped_transport_is_replaced_and_nothing_is_lost(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("batches"))
        await connection.request("first", -1)
        session = connection.dcpsid
        for _ in range(5):
            asking = [asyncio.ensure_future(connection.request("op", i)) for i in range(100, 300)]
            await asyncio.sleep(0)
            connection.drop_transport()
            assert await asyncio.gather(*asking) == list(range(100, 300))
        assert connection.dcpsid == session
        assert [i for batch in setup.batches.batches for i in batch] == [-1, *list(range(100, 300)) * 5]


async def test_a_cancelled_request_leaves_the_session_whole(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        asking = asyncio.ensure_future(connection.request("block"))
        await setup.echo.blocked.wait()
        asking.cancel()
        assert await connection.request("op", 1) == 1
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        asking = asyncio.ensure_future(connection.request("op", 2))
        await asyncio.sleep(0)
        asking.cancel()
        assert await connection.request("op", 3) == 3


async def test_close_tells_the_service_and_fails_what_waits(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("watch")
        waiting = asyncio.ensure_future(connection.request("block"))
        await setup.echo.blocked.wait()
        await connection.close()
        with pytest.raises(ConnectionClosed) as caught:
            await waiting
        assert caught.value.code == "EPIPE"
        assert setup.echo.closed == ["ECONNRESET"]
        with pytest.raises(ConnectionClosed):
            await connection.request("op")
    assert setup.server.connections == []


async def test_errors_of_the_body_come_out_as_they_are(setup: Setup) -> None:
    with pytest.raises(RemoteError):
        async with setup.client() as client:
            await client.connect(setup.url("batches")).request("raise")
    with pytest.raises(NotFound):
        async with DcpServer(setup.identity, {}, setup.config_text):
            raise NotFound("x")


async def test_a_client_outlives_its_server(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("watch")
        ended = asyncio.Event()
        connection.on_session_end(lambda _: ended.set())
        waiting = asyncio.ensure_future(connection.request("block"))
        await setup.echo.blocked.wait()
        port = setup.server.port
        await setup.stack.aclose()
        assert setup.echo.cancelled == 1
        again = Setup()
        again.server.books.identity = setup.identity
        async with again.server:
            await again.server.listen(port=port)
            connection.wake()
            with pytest.raises(ConnectionLost):
                await waiting
            assert ended.is_set()
            assert await connection.request("op", 1) == 1


async def test_a_server_with_another_key_is_refused(setup: Setup, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "identity-cache.json"
    async with setup.client(cache=cache) as client:
        await client.connect(setup.url("echo")).request("op", 1)
    assert json.loads(cache.read_text()) == {setup.url("echo"): setup.identity.address}
    setup.server.books.identity = PrivateKey.generate()
    async with setup.client(cache=cache) as client:
        connection = client.connect(setup.url("echo"))
        client.accepted = frozenset({PrivateKey.generate().address})  # somebody else was meant
        with pytest.raises(PeerChanged, match="operator") as caught:
            await connection.request("op", 1)
        assert caught.value.info == {"before": setup.identity.address, "now": setup.server.identity.address}
        assert connection.peer_changed is not None and connection.peer_changed.info == caught.value.info
        with pytest.raises(PeerChanged):  # nor is it believed for a service that was never asked before
            await client.connect(setup.url("batches")).request("op", 13)
        assert json.loads(cache.read_text()) == {setup.url("echo"): setup.identity.address}
        client.accepted = frozenset({setup.server.identity.address})
        assert await connection.request("op", 1) == 1
        assert connection.peer_changed is None
    assert json.loads(cache.read_text()) == {setup.url("echo"): setup.server.identity.address}
    setup.server.books.identity = setup.identity
    async with setup.client(cache=cache) as client:
        client.accepted = frozenset({PrivateKey.generate().address})
        connection = client.connect(setup.url("echo"))
        with pytest.raises(PeerChanged, match="operator"):  # the key of before is a stranger's now
            await connection.request("op", 1)
        client.cache.forget(connection.url)
        assert await connection.request("op", 1) == 1
    cache.write_text("{")
    with pytest.raises(InvalidInput, match="damaged"):
        setup.client(cache=cache)


async def test_requests_of_the_server_and_their_failures(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(operation: str, data: Any) -> Any:
        match data:
            case "bug":
                raise RuntimeError("a bug")
            case "missing":
                raise NotFound("not here")
        return [operation, data]

    async with setup.client() as client:
        connection = client.connect(setup.url("echo"), on_request=answer)
        assert await connection.request("call", 5) == ["called", 5]
        for data, code in (("missing", "ENOENT"), ("bug", "EINTERNAL")):
            with pytest.raises(RemoteError) as caught:
                await connection.request("call", data)
            assert caught.value.code == code
        silent = client.connect(setup.url("echo"))
        with pytest.raises(RemoteError) as caught:
            await silent.request("call", 5)
        assert caught.value.code == "ENOSYS"


async def test_close_does_not_wait_for_a_server_that_is_not_there() -> None:
    async with DcpClient(PrivateKey.generate()) as client:
        connection = client.connect("http://127.0.0.1:9/echo/")
        waiting = asyncio.ensure_future(connection.request("op", 1))
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            await connection.close()
        with pytest.raises(ConnectionClosed) as caught:
            await waiting
        assert caught.value.code == "EPIPE"
        assert client._connections == []


async def test_an_absent_server_is_given_up_after_the_time_for_connecting(caplog: pytest.LogCaptureFixture) -> None:
    now = 1_800_000_000.0
    limits = ClientLimits(first_delay=0.01, longest_delay=0.01, tick_interval=0)
    async with DcpClient(PrivateKey.generate(), limits=limits, clock=lambda: now) as client:
        connection = client.connect("http://127.0.0.1:9/echo/")
        waiting = asyncio.ensure_future(connection.request("op", 1))
        await until(lambda: "trying again" in caplog.text)
        now += 61
        with pytest.raises(ConnectionLost) as caught:
            await waiting
        assert caught.value.code == "ETIMEDOUT"


@pytest.mark.parametrize("setup", [ServerLimits(sessions=0)], indirect=True)
async def test_a_server_that_drops_every_socket_is_not_stormed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    async def wait(self: Any, seconds: float) -> None:
        delays.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(ClientConnection, "_wait", wait)
    limits = ClientLimits(first_delay=1, longest_delay=64)
    async with DcpClient(PrivateKey.generate(), limits=limits) as client:
        connection = client.connect(setup.url("echo"))
        waiting = asyncio.ensure_future(connection.request("op", 1))
        await until(lambda: len(delays) >= 8)
        await connection.close()
        with pytest.raises(ConnectionClosed):
            await waiting
    assert max(delays) > 2
    assert all(delay <= 2**i for i, delay in enumerate(delays))


# --- configuration


async def test_configuration_in_both_versions(setup: Setup) -> None:
    for version in (8, 9):
        got = await fetch_config(setup.url() + "some/path?x=1", version)  # type: ignore[arg-type]
        assert got["scheduler"]["services"]["jobSubmit"]["location"] == setup.url("jobSubmit")
        assert got["scheduler"]["compatibility"]["minimum"]["dcp"] == "^5.0.0"
        assert got["bank"]["services"]["bankTeller"]["location"] == setup.url("bankTeller")
    async with aiohttp.ClientSession() as http:
        for query, status in (("ver=2.1.0", 200), ("ver=2.0.0", 200), ("", 400), ("ver=1.0.0", 400), ("ver=x", 400)):
            async with http.get(setup.url() + "etc/dcp-config.kvin?" + query) as response:
                assert response.status == status
                text = await response.text()
            if status == 200:
                assert json.loads(text)["_serializeVerId"] == ("v9" if "2.1" in query else "v8")
                assert kvin.parse(text)["scheduler"]["location"] == kvin.DcpUrl(setup.url())


async def test_a_configuration_that_cannot_be_had(setup: Setup) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(text=request.query.get("body", "{"))

    app = web.Application()
    app.router.add_get("/etc/dcp-config.kvin", nonsense)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    with pytest.raises(InvalidInput):
        await fetch_config(url)
    await runner.cleanup()
    with pytest.raises(NetworkFailure):
        await fetch_config(url)
    with pytest.raises(InvalidInput):
        config.build_config("ftp://x/")


async def test_further_routes() -> None:
    setup = Setup()

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    setup.server.add_routes([web.get("/hello", hello)])
    async with setup.server, aiohttp.ClientSession() as http:
        await setup.server.listen()
        async with http.get(setup.url() + "hello") as response:
            assert await response.text() == "hello"


# --- peers that mean no good


@pytest.fixture
async def raw(setup: Setup) -> AsyncIterator[Callable[..., Any]]:
    """Sockets without a session."""
    clients: list[socketio.AsyncClient] = []

    async def connect(service: str = "echo") -> Any:
        client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        client.gone = asyncio.Event()
        client.packets = asyncio.Queue()
        client.on("disconnect", lambda *_: client.gone.set())
        client.on("message", client.packets.put_nowait)
        await client.connect(setup.url(), transports=["websocket"], socketio_path=f"/{service}/dcp5/socketio")
        assert (await client.packets.get()).startswith("E0000P")
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.disconnect()


def _connect_frame(key: PrivateKey, **changes: Any) -> str:
    body = {
        "id": "1",
        "type": "request",
        "payload": {"operation": "connect", "data": {"version": "5.3.0", "sid": "s" * 21}},
        "ackToken": "t",
        "nonce": None,
        **changes,
    }
    return signing.seal(key, signing.js_json.dumps(body))


@pytest.mark.parametrize(
    "packet",
    [
        "x",
        "{}",
        "{" * 70_000,
        "E0000C",
        "[" * 100_000,
        '{"owner":"0x","signature":{},"body":{}}',
        _connect_frame(PrivateKey.generate(), type="batch"),
        _connect_frame(PrivateKey.generate(), dcpsid="x" * 42),
        _connect_frame(PrivateKey.generate(), dcpsid=5),
        _connect_frame(PrivateKey.generate(), payload={"operation": "connect", "data": {"sid": '"'}}),
    ],
    ids=range(10),
)
async def test_what_is_not_dcp_costs_the_peer_its_socket(setup: Setup, raw: Any, packet: str) -> None:
    peer = await raw()
    await peer.emit("message", packet)
    async with asyncio.timeout(5):
        await peer.gone.wait()
    assert setup.server.connections == []
    assert setup.server.statistics()["sockets"] == 0


async def test_other_events_do_nothing(setup: Setup, raw: Any) -> None:
    peer = await raw()
    await peer.emit("connect", [{"PATH_INFO": "/elsewhere/"}])
    await peer.emit("anything", {"x": 1})
    await peer.emit("message", ("two", "strings"))
    await peer.emit("message", {"an": "object"})
    key = PrivateKey.generate()
    await peer.emit("message", _connect_frame(key))
    assert json.loads(await peer.packets.get())["body"]["type"] == "ack"
    assert json.loads(await peer.packets.get())["body"]["success"] is True
    (connection,) = setup.server.connections
    assert connection.peer == key.address


async def test_a_session_is_not_given_to_another_key_or_service(setup: Setup, raw: Any) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("op", 1)
        for service, key in (("echo", PrivateKey.generate()), ("batches", client.identity)):
            peer = await raw(service)
            ack = {"type": "ack", "dcpsid": connection.dcpsid, "token": "t", "nonce": "n", "messageId": "1"}
            await peer.emit("message", signing.seal(key, signing.js_json.dumps(ack)))
            farewell = json.loads(await peer.packets.get())["body"]
            assert farewell["payload"]["operation"] == "close"
            assert farewell["nonce"] == "n"
        assert await connection.request("op", 2) == 2
        assert connection.statistics()["transports"] == 1


@pytest.mark.parametrize("setup", [ServerLimits(greeting_timeout=0)], indirect=True)
async def test_a_silent_socket_is_dropped(setup: Setup, raw: Any) -> None:
    peer = await raw()
    async with setup.client() as client, aiohttp.ClientSession() as http:
        await client.connect(setup.url("echo")).request("op", 1)
        engine = await http.ws_connect(setup.url() + "echo/?EIO=4&transport=websocket")
        assert (await engine.receive()).data.startswith("0")
        setup.server.sweep()  # sees the second for the first time
        setup.server.sweep()
        async with asyncio.timeout(5):
            await peer.gone.wait()
            while (await engine.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert len(setup.server.connections) == 1


@pytest.mark.parametrize("setup", [ServerLimits(unread_packets=100)], indirect=True)
async def test_a_peer_that_does_not_read_is_cut_off(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("op", 1)
        assert connection._link is not None
        sio = connection._link.transport.socket._sio  # type: ignore[union-attr]
        sio.eio.ws._response.connection.transport.pause_reading()
        # 67 fragments: many more than fit into the buffers of the kernel.
        asking = asyncio.ensure_future(connection.request("large"))
        await until(lambda: setup.echo.large == 1)
        # No peer makes a server say more than that unread; so it says it by itself.
        (socket,) = setup.server._sockets._sockets.values()
        for _ in range(150):
            socket.send_raw("A")
        await until(lambda: setup.server.statistics()["sockets"] == 0)
        connection.drop_transport()
        assert len(await asking) == 20_000_000
        assert setup.echo.large == 1


@pytest.mark.parametrize("setup", [ServerLimits(sessions=3)], indirect=True)
async def test_the_number_of_sessions_is_bounded(setup: Setup, raw: Any) -> None:
    async with setup.client() as client:
        connections = [client.connect(setup.url("echo")) for _ in range(3)]
        for connection in connections:
            await connection.request("op", 1)
        peer = await raw()
        await peer.emit("message", _connect_frame(PrivateKey.generate()))
        async with asyncio.timeout(5):
            await peer.gone.wait()
        assert setup.server.statistics()["refused"] == 1
        assert len(setup.server.connections) == 3
    # A session that nobody holds makes room.
    lost = await raw()
    await lost.emit("message", _connect_frame(PrivateKey.generate()))
    await lost.packets.get()
    await lost.disconnect()
    await until(lambda: setup.server.statistics()["resumable"] == 1)
    async with setup.client() as client:
        for _ in range(3):
            await client.connect(setup.url("echo")).request("op", 1)
        assert len(setup.server.connections) == 3


async def test_nothing_is_left_of_sessions_whose_clients_never_return(setup: Setup, raw: Any) -> None:
    before = setup.server.statistics()
    for _ in range(20):
        peer = await raw()
        await peer.emit("message", _connect_frame(PrivateKey.generate()))
        await peer.packets.get()
        await peer.disconnect()
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("watch")
        assert connection._runner is not None
        connection._runner.cancel()
        await until(lambda: setup.server.statistics()["resumable"] == 21)
        setup.now += 61
        setup.server.sweep()
        assert setup.server.statistics()["resumable"] == 1
        assert setup.echo.closed == []
        setup.now += SessionLimits().linger_timeout
        setup.server.sweep()
        assert setup.echo.closed == ["ETIMEDOUT"]
        after = setup.server.statistics()
        assert {**after, "stamps": 0, "refused": 0} == {**before, "stamps": 0, "refused": 0}
        assert not setup.server._books.unready


@pytest.mark.parametrize("setup", [ServerLimits(framing=FramingLimits(message=100_000))], indirect=True)
async def test_a_message_beyond_the_limit_ends_the_session(setup: Setup) -> None:
    async with setup.client() as client:
        connection = client.connect(setup.url("echo"))
        await connection.request("op", "x" * 90_000)
        with pytest.raises(ConnectionLost):
            await connection.request("op", "x" * 120_000)
        assert await connection.request("op", 1) == 1
        assert len(setup.server.connections) == 1


def test_names_of_services() -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        DcpServer(PrivateKey.generate(), {"a/b": Echo()}, lambda *_: "")


def test_urls_of_services() -> None:
    client = DcpClient(PrivateKey.generate())
    for url in ("http://x/pheme", "ws://x/pheme/", "pheme/"):
        with pytest.raises(InvalidInput):
            client.connect(url)
