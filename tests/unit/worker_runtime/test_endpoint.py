"""Where Docker listens, and what is said when it does not."""

import asyncio
import pathlib

import pytest

from orchestrator.worker.docker_runtime import RuntimeUnavailable
from orchestrator.worker.docker_runtime.container import FALSE_EXIT, parse_state
from orchestrator.worker.docker_runtime.endpoint import Endpoint, chunks, parse_head, request_head
from orchestrator.worker.docker_runtime.engine import parse_info, version_tuple
from orchestrator.worker.docker_runtime.events import parse_event
from orchestrator.worker.docker_runtime.usage import StatsUsage


def test_addresses() -> None:
    assert Endpoint.parse({}).socket == "/var/run/docker.sock"
    assert Endpoint.parse({"DOCKER_HOST": "unix:///x/y.sock"}).socket == "/x/y.sock"
    plain = Endpoint.parse({"DOCKER_HOST": "tcp://10.0.0.1"})
    assert (plain.host, plain.port, plain.certificates, plain.local) == ("10.0.0.1", 2375, None, False)
    tls = Endpoint.parse({"DOCKER_HOST": "tcp://h:9", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"})
    assert (tls.port, tls.certificates, tls.verify) == (9, pathlib.Path("/c"), True)
    assert Endpoint.parse({"DOCKER_HOST": "unix:///a"}, "unix:///b").socket == "/b"


@pytest.mark.parametrize(
    "address", ["ssh://me@host", "npipe:////./pipe/docker", "fd://", "tcp://", "tcp://h:x", "nonsense"]
)
def test_addresses_that_cannot_carry_a_stream(address: str) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        Endpoint.parse({"DOCKER_HOST": address})
    assert caught.value.reason == "unsupported"
    assert "unix://" in caught.value.remedy


async def test_nothing_listens(tmp_path: pathlib.Path) -> None:
    endpoint = Endpoint.parse({}, f"unix://{tmp_path}/none.sock")
    with pytest.raises(RuntimeUnavailable) as caught:
        await endpoint.open(1.0)
    assert caught.value.reason == "missing"
    assert "Install" in caught.value.remedy
    with pytest.raises(RuntimeUnavailable):
        await endpoint.connect(asyncio.Protocol, 1.0)


def test_heads() -> None:
    head = parse_head(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/x\r\nConnection: Upgrade")
    assert (head.status, head.headers["content-type"]) == (101, "application/x")
    with pytest.raises(ValueError, match="not an HTTP"):
        parse_head(b"SSH-2.0-x")
    assert b"Upgrade: tcp\r\n" in request_head("POST", "/x", upgrade=True)


async def test_chunked_bodies() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"5\r\nhello\r\n3;ext=1\r\nabc\r\n0\r\n\r\n")
    assert [chunk async for chunk in chunks(reader)] == [b"hello", b"abc"]


async def test_a_body_that_is_cut_off_is_an_error() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"5\r\nhel")
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        [chunk async for chunk in chunks(reader)]


def test_events() -> None:
    died = parse_event({"Action": "die", "Actor": {"ID": "c", "Attributes": {"exitCode": "137"}}, "timeNano": 5})
    assert died is not None
    assert (died.action, died.container_id, died.time_ns) == ("die", "c", 5)
    assert parse_event({"Action": "start", "Actor": {"ID": "c"}}) is None
    assert parse_event({"Action": "die"}) is None


def test_states() -> None:
    state = parse_state({"State": {"Running": False, "ExitCode": FALSE_EXIT, "OOMKilled": True, "Pid": 0}})
    assert (state.running, state.exit_code, state.oom_killed) == (False, FALSE_EXIT, True)
    assert parse_state({"State": {"Running": True, "ExitCode": 0}}).exit_code is None


def test_statistics_of_the_engine_after_exit_are_ignored() -> None:
    usage = StatsUsage()
    memory = {"usage": 100, "stats": {"total_cache": 40}}
    usage.update({"cpu_stats": {"cpu_usage": {"total_usage": 7}}, "memory_stats": memory})
    usage.update({"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}})
    assert (usage.read(0.0).cpu_ns, usage.read(0.0).peak_bytes, usage.exact) == (7, 60, False)


def test_versions() -> None:
    assert version_tuple("1.41") >= version_tuple("1.41") > version_tuple("1.5")
    info = parse_info(
        {"Version": "20.10.24", "ApiVersion": "1.41"}, {"Runtimes": {"runc": {}}, "CgroupDriver": "cgroupfs"}
    )
    assert (info.version, info.runtimes, info.cgroup_driver) == ("20.10.24", ("runc",), "cgroupfs")
