"""Who is an orphan: only what nobody owns any more."""

import os
import pathlib

import pytest

from orchestrator.worker.docker_runtime import reaper

ME = reaper.Owner("worker-1", "boot/ns/1/1", "instance-a")


def container(owner: reaper.Owner, sandbox: str = "box", expires: float = 1000.0) -> reaper.Labelled:
    return reaper.Labelled(sandbox, owner.labels(sandbox, expires))


@pytest.mark.parametrize(
    ("owner", "live", "now", "alive", "orphan"),
    [
        pytest.param(ME, {"box"}, 0, True, False, id="my own, in use"),
        pytest.param(ME, {"box"}, 5000, True, False, id="my own, in use, lease over"),
        pytest.param(ME, set(), 0, True, True, id="my own, not in use"),
        pytest.param(reaper.Owner("worker-1", "p", "b"), {"box"}, 0, False, True, id="my earlier run, ended"),
        pytest.param(reaper.Owner("worker-1", "p", "b"), set(), 0, True, False, id="my other run, alive"),
        pytest.param(
            reaper.Owner("worker-1", "p", "b"), set(), 5000, True, False, id="my other run, alive, lease over"
        ),
        pytest.param(reaper.Owner("worker-1", "p", "b"), set(), 0, None, False, id="my other run, unknown"),
        pytest.param(
            reaper.Owner("worker-1", "p", "b"), set(), 5000, None, True, id="my other run, unknown, lease over"
        ),
        pytest.param(reaper.Owner("worker-2", "p", "b"), set(), 0, False, False, id="another worker's, ended"),
        pytest.param(reaper.Owner("worker-2", "p", "b"), set(), 5000, False, True, id="another's, ended, lease over"),
        pytest.param(reaper.Owner("worker-2", "p", "b"), set(), 0, True, False, id="another worker's, alive"),
        pytest.param(reaper.Owner("worker-2", "p", "b"), set(), 5000, True, False, id="another's, alive, lease over"),
        pytest.param(reaper.Owner("worker-2", "p", "b"), set(), 5000, None, True, id="another's, unknown, lease over"),
    ],
)
def test_orphans(owner: reaper.Owner, live: set[str], now: float, alive: bool | None, orphan: bool) -> None:
    found = reaper.orphans([container(owner)], ME, live, now, lambda _process, _instance: alive)
    assert bool(found) is orphan


@pytest.mark.parametrize(
    ("alive", "now", "gone"),
    [(True, 0, False), (True, 5000, False), (False, 0, True), (None, 0, False), (None, 5000, True)],
)
def test_abandoned(alive: bool | None, now: float, gone: bool) -> None:
    strange = reaper.Labelled("x", {reaper.LABEL_SANDBOX: "x", reaper.LABEL_EXPIRES: "1"})
    found = reaper.abandoned([container(ME), strange], now, lambda _process, _instance: alive)
    assert [one.container_id for one in found] == (["box"] if gone else [])


def test_a_container_without_our_labels_is_never_ours() -> None:
    strange = reaper.Labelled("x", {reaper.LABEL_SANDBOX: "x", reaper.LABEL_EXPIRES: "1"})
    assert reaper.orphans([strange], ME, set(), 1e12, lambda _p, _i: False) == []


def test_an_expiry_that_is_no_number_never_expires() -> None:
    owner = reaper.Owner("worker-2", "p", "b")
    odd = reaper.Labelled("x", {**owner.labels("x", 0), reaper.LABEL_EXPIRES: "soon"})
    assert reaper.orphans([odd], ME, set(), 1e12, lambda _p, _i: None) == []


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
