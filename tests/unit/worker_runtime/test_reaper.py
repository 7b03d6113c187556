"""Who is an orphan: only what nobody owns any more."""

import os
import pathlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.docker_runtime import reaper

ME = reaper.Owner("worker-1", "boot/ns/1/1", "instance-a")


def container(owner: reaper.Owner, sandbox: str = "box", expires: float = 1000.0) -> reaper.Labelled:
    return reaper.Labelled(sandbox, owner.labels(sandbox, expires))


OTHER = reaper.Owner("worker-2", "p", "b")
EARLIER = reaper.Owner("worker-1", "p", "b")
OWNED, OVER, GONE = reaper.Verdict.OWNED, reaper.Verdict.LEASE_OVER, reaper.Verdict.OWNER_GONE


@pytest.mark.parametrize(
    ("owner", "live", "now", "alive", "verdict"),
    [
        pytest.param(ME, {"box"}, 0, True, OWNED, id="my own, in use"),
        pytest.param(ME, {"box"}, 5000, True, OWNED, id="my own, in use, lease over"),
        pytest.param(ME, set(), 0, True, GONE, id="my own, not in use"),
        pytest.param(EARLIER, {"box"}, 0, False, GONE, id="my earlier run, ended"),
        pytest.param(EARLIER, set(), 0, True, OWNED, id="my other run, alive"),
        pytest.param(EARLIER, set(), 5000, True, OWNED, id="my other run, alive, lease over"),
        pytest.param(EARLIER, set(), 0, None, OWNED, id="my other run, unknown"),
        pytest.param(EARLIER, set(), 5000, None, OVER, id="my other run, unknown, lease over"),
        pytest.param(OTHER, set(), 0, False, GONE, id="another worker's, ended"),
        pytest.param(OTHER, set(), 5000, False, GONE, id="another worker's, ended, lease over"),
        pytest.param(OTHER, {"box"}, 0, True, OWNED, id="another worker's, alive"),
        pytest.param(OTHER, set(), 5000, True, OWNED, id="another worker's, alive, lease over"),
        pytest.param(OTHER, set(), 0, None, OWNED, id="another worker's, unknown"),
        pytest.param(OTHER, set(), 5000, None, OVER, id="another worker's, unknown, lease over"),
    ],
)
def test_verdicts(owner: reaper.Owner, live: set[str], now: float, alive: bool | None, verdict: reaper.Verdict) -> None:
    assert reaper.judge(container(owner), ME, live, now, lambda _process, _instance: alive) is verdict


@pytest.mark.parametrize(("alive", "now", "verdict"), [(True, 5000, OWNED), (False, 0, GONE), (None, 5000, OVER)])
def test_for_one_who_owns_nothing(alive: bool | None, now: float, verdict: reaper.Verdict) -> None:
    assert reaper.judge(container(ME), None, set(), now, lambda _process, _instance: alive) is verdict


@given(
    worker=st.sampled_from(["worker-1", "worker-2"]),
    instance=st.sampled_from(["instance-a", "instance-b"]),
    live=st.booleans(),
    now=st.integers(0, 2000),
    alive=st.sampled_from([True, False, None]),
    renewed=st.none() | st.integers(0, 2000),
)
def test_nothing_that_somebody_owns_is_ever_removed(
    worker: str, instance: str, live: bool, now: int, alive: bool | None, renewed: int | None
) -> None:
    owner = reaper.Owner(worker, "p", instance)
    names = () if renewed is None else ("/" + reaper.container_name("0b", renewed),)
    one = reaper.Labelled("c", owner.labels("0b", 1000.0), names)
    verdict = reaper.judge(one, ME, {"0b"} if live else set(), now, lambda _process, _instance: alive)
    mine = instance == ME.instance
    if (mine and live) or (not mine and alive is True):
        assert verdict is OWNED
    if not mine and alive is None:
        assert (verdict is OVER) == (now > max(1000, renewed or 0))
    if not mine and alive is False:
        assert verdict is GONE


def test_a_container_without_our_labels_is_never_ours() -> None:
    strange = reaper.Labelled("x", {reaper.LABEL_SANDBOX: "x", reaper.LABEL_EXPIRES: "1"})
    assert reaper.judge(strange, ME, set(), 1e12, lambda _p, _i: False) is OWNED


def test_an_expiry_that_is_no_number_never_expires() -> None:
    odd = reaper.Labelled("x", {**OTHER.labels("x", 0), reaper.LABEL_EXPIRES: "soon"})
    assert reaper.judge(odd, ME, set(), 1e12, lambda _p, _i: None) is OWNED


@pytest.mark.parametrize(
    ("name", "expires"),
    [
        ("/" + reaper.container_name("0b", 2000.7), 2000),
        ("/" + reaper.container_name("0b", 500), 1000),
        ("/" + reaper.container_name("0b"), 1000),
        ("/dcp-sandbox-0b-until-99999999999999999999", 1000),
        ("/prefix-dcp-sandbox-0b-until-2000", 1000),
        ("/dcp-sandbox-0b-until-", 1000),
    ],
)
def test_the_later_of_label_and_name_counts(name: str, expires: int) -> None:
    listed = reaper.Labelled.listed({"Id": "c", "Labels": OTHER.labels("0b", 1000.0), "Names": [name]})
    assert listed.expires == expires


def test_a_lease_is_over_only_when_nobody_renews_it_for_a_while() -> None:
    doubts = reaper.Doubts(90.0)
    one, two = container(OTHER, "1", 10.0), container(OTHER, "2", 10.0)
    assert doubts.settled([one, two], 0.0) == []
    assert doubts.settled([one, two], 89.0) == []
    assert doubts.settled([one], 90.0) == [one]  # the other was renewed
    assert doubts.settled([one, two], 91.0) == [one], "its time begins anew"
    later = container(OTHER, "1", 20.0)
    assert doubts.settled([later], 200.0) == [], "renewed meanwhile, and over again"
    assert reaper.Doubts(0.0).settled([one], 0.0) == [one]


def test_this_process_is_alive_while_its_runtime_is_open() -> None:
    owner = reaper.Owner.this_process("w")
    assert reaper.process_is_alive(owner.process, owner.instance) is False
    owner.open()
    assert reaper.process_is_alive(owner.process, owner.instance) is True
    owner.close()
    assert reaper.process_is_alive(owner.process, owner.instance) is False


def test_a_process_id_that_was_used_again_is_another_process() -> None:
    boot, namespace, pid, started = reaper.describe_process(os.getpid()).split("/")
    assert reaper.process_is_alive(f"{boot}/{namespace}/{pid}/{int(started) - 1}", "i") is False


def test_another_boot_or_namespace_is_unknown() -> None:
    boot, namespace, pid, started = reaper.describe_process(os.getpid()).split("/")
    assert reaper.process_is_alive(f"other/{namespace}/{pid}/{started}", "i") is None
    assert reaper.process_is_alive(f"{boot}/1/{pid}/{started}", "i") is None
    assert reaper.process_is_alive("nonsense", "i") is None


def test_the_parent_process_is_alive() -> None:
    assert reaper.process_is_alive(reaper.describe_process(os.getppid()), "i") is True


def test_a_process_name_with_brackets(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(3, 60))
    (tmp_path / "7/stat").write_text(f"7 (a) b) ) S {fields[2:]}")
    assert reaper.describe_process(7, tmp_path).split("/")[:3] == ["boot", "4026531836", "7"]
    assert reaper.describe_process(8, tmp_path) == ""


def test_a_process_that_nobody_has_waited_for_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        name = reaper.describe_process(child.pid)
        assert name
        assert reaper.process_is_alive(name, "i") is False
    finally:
        child.wait()
    assert reaper.process_is_alive(name, "i") is False


def test_a_process_that_proc_does_not_show_may_be_there(tmp_path: pathlib.Path) -> None:
    assert reaper._lives(os.getppid(), "1", tmp_path) is None
    child = subprocess.Popen(["true"])
    child.wait()
    assert reaper._lives(child.pid, "1", tmp_path) is False
