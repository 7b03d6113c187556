"""cgroup v1 and v2 on fixture trees: what the kernel's files say, without a kernel that has both."""

import pathlib

import pytest

from orchestrator.worker.cgroups import (
    CgroupFailure,
    CgroupReader,
    CgroupTree,
    Hierarchies,
    open_container,
    parse_flat_keyed,
    parse_mountinfo,
    parse_proc_cgroup,
)
from orchestrator.worker.metering import Usage

V1_MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/dev\040ices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_MOUNTS = """22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_v1_hybrid_mounts(tmp_path: pathlib.Path) -> None:
    found = parse_mountinfo(V1_MOUNTS, tmp_path)
    base = tmp_path / "sys/fs/cgroup"
    assert found.version == 1
    assert found.v1["cpuacct"] == found.v1["cpu"] == base / "cpu,cpuacct"
    assert found.v1["devices"] == base / "dev ices"
    assert found.v2 == base / "unified"
    assert found.mounts() == [base / name for name in ("cpu,cpuacct", "memory", "dev ices", "systemd", "unified")]


def test_v2_mounts(tmp_path: pathlib.Path) -> None:
    found = parse_mountinfo(V2_MOUNTS, tmp_path)
    assert found.version == 2
    assert found.mounts() == [tmp_path / "sys/fs/cgroup"]


def test_no_cgroups() -> None:
    assert parse_mountinfo("garbage\n\n1 2 3 - x\n").version == 0


def test_proc_cgroup() -> None:
    text = "9:name=systemd:/\n4:memory:/a/b:c\n1:cpu,cpuacct:/x\n0::/u\nnonsense\n"
    assert parse_proc_cgroup(text) == {"name=systemd": "/", "memory": "/a/b:c", "cpu": "/x", "cpuacct": "/x", "": "/u"}


def test_flat_keyed() -> None:
    assert parse_flat_keyed(b"usage_usec 12\nbad\nuser_usec -1\noom_kill 3\n") == {"usage_usec": 12, "oom_kill": 3}


@pytest.fixture
def v1(tmp_path: pathlib.Path) -> Hierarchies:
    found = parse_mountinfo(V1_MOUNTS, tmp_path)
    for mount in found.mounts():
        mount.mkdir(parents=True)
    return found


@pytest.fixture
def v2(tmp_path: pathlib.Path) -> Hierarchies:
    found = parse_mountinfo(V2_MOUNTS, tmp_path / "unified-only")
    assert found.v2 is not None
    found.v2.mkdir(parents=True)
    return found


def fill_v1(tree: CgroupTree, name: str, cpu: int, peak: int, cache: int) -> None:
    directories = tree.directories(name)
    memory = directories["memory"]
    for directory in (memory, directories["cpuacct"]):
        directory.mkdir(parents=True, exist_ok=True)
    (directories["cpuacct"] / "cpuacct.usage").write_text(f"{cpu}\n")
    (memory / "memory.stat").write_text(f"cache 1\nrss 5\ntotal_cache {cache}\ntotal_rss 6\n")
    (memory / "memory.usage_in_bytes").write_text(f"{peak}\n")
    (memory / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")


def fill_v2(directory: pathlib.Path, usec: int, peak: int | None, cache: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.stat").write_text(f"usage_usec {usec}\nuser_usec 1\n")
    (directory / "memory.stat").write_text(f"anon 5\nfile {cache}\n")
    (directory / "memory.current").write_text("700\n")
    (directory / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    if peak is not None:
        (directory / "memory.peak").write_text(f"{peak}\n")


def test_v1_reading(v1: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    fill_v1(tree, "/dcp-sandboxes/worker/box", 395_185_712, 137_789_440, 100_000_000)
    reader = CgroupReader(1, tree.directories("/dcp-sandboxes/worker/box"))
    usage = reader.read(0.0)
    assert usage.cpu_ns == 395_185_712
    assert usage.peak_bytes == 37_789_440
    assert reader.oom_kills() == 2
    mark = tree.directories("/dcp-sandboxes/worker/box")["memory"] / "memory.max_usage_in_bytes"
    assert mark.read_text().startswith("0")  # reset for the next slice
    assert reader.peak_bytes == 37_789_440
    reader.close()
    reader.close()
    with (tmp_path := tree.directories("/dcp-sandboxes/worker/box")["memory"] / "other").open("w"):
        # Its descriptors may belong to other files by now: a closed reader repeats itself.
        assert reader.read(9.0) == usage
        assert reader.oom_kills() == 0
    assert tmp_path.read_text() == ""


def test_v2_reading(v2: Hierarchies) -> None:
    assert v2.v2 is not None
    fill_v2(v2.v2 / "x", 1234, 5000, 1000)
    reader = CgroupReader(2, {"": v2.v2 / "x"})
    assert reader.read(0.0).cpu_ns == 1_234_000
    assert reader.peak_bytes == 4000
    assert reader.oom_kills() == 1
    reader.close()


def test_v2_before_kernel_5_19_has_no_peak(v2: Hierarchies) -> None:
    assert v2.v2 is not None
    fill_v2(v2.v2 / "x", 1, None, 100)
    reader = CgroupReader(2, {"": v2.v2 / "x"})
    assert reader.read(0.0).peak_bytes == 600
    reader.close()


def test_the_page_cache_figure_is_read_rarely(v1: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    fill_v1(tree, "/x/y", 1, 1000, 100)
    reader = CgroupReader(1, tree.directories("/x/y"))
    assert reader.read(0.0).peak_bytes == 900
    fill_v1(tree, "/x/y", 1, 1000, 400)
    assert reader.read(0.1).peak_bytes == 900
    assert reader.read(1.0).peak_bytes == 0  # the mark was reset to nothing by the reading before
    fill_v1(tree, "/x/y", 1, 1000, 400)
    assert reader.read(1.1).peak_bytes == 600
    reader.close()


def test_a_missing_file_is_a_failure_and_leaks_no_descriptor(v1: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    with pytest.raises(CgroupFailure, match="cannot read"):
        CgroupReader(1, tree.directories("/nowhere"))
    with pytest.raises(CgroupFailure, match="no unified"):
        CgroupReader(2, {})
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before


def test_container_cgroup_by_its_process(v1: Hierarchies, v2: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    fill_v1(tree, "/docker/abc", 77, 10, 0)
    reader = open_container(v1, "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n")
    assert reader.read(0.0).cpu_ns == 77
    reader.close()
    assert v2.v2 is not None
    fill_v2(v2.v2 / "system.slice/docker-abc.scope", 9, 10, 0)
    reader = open_container(v2, "0::/system.slice/docker-abc.scope\n")
    assert reader.read(0.0).cpu_ns == 9000
    reader.close()


def test_v1_trees_are_made_and_removed_everywhere(v1: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    tree.prepare()
    fill = "/dcp-sandboxes/worker/box"
    for mount in v1.mounts():  # the container runtime makes the path in every tree, with its own directory below
        (mount / fill.lstrip("/") / "container").mkdir(parents=True)
    assert tree.sandboxes() == {"box"}
    assert tree.remove_sandbox("box")
    assert tree.sandboxes() == set()
    tree.dismantle()
    assert tree.everywhere("/dcp-sandboxes/worker") == []
    assert tree.everywhere("/dcp-sandboxes"), "others may be on their way into it"


def test_another_workers_directory_stays(v1: Hierarchies) -> None:
    mine, other = CgroupTree(v1, "mine"), CgroupTree(v1, "other")
    mine.prepare()
    other.prepare()
    mine.dismantle()
    assert mine.everywhere("/dcp-sandboxes/mine") == []
    assert len(other.everywhere("/dcp-sandboxes/other")) == 2


def test_what_cannot_be_removed_is_said(v1: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    directory = v1.v1["memory"] / "dcp-sandboxes/worker/box"
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").write_text("12\n0\n")  # a plain file stands in for a process: rmdir fails
    assert not tree.remove_sandbox("box")


def test_v2_hands_controllers_down(v2: Hierarchies) -> None:
    assert v2.v2 is not None
    for part in ("", "dcp-sandboxes", "dcp-sandboxes/worker"):
        (v2.v2 / part).mkdir(exist_ok=True)
        (v2.v2 / part / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    CgroupTree(v2, "worker").prepare()
    assert (v2.v2 / "dcp-sandboxes/worker/cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_nothing_mounted() -> None:
    with pytest.raises(CgroupFailure):
        CgroupTree(Hierarchies({}, None), "worker").prepare()


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "x" * 200])
def test_names_cannot_climb(v1: Hierarchies, name: str) -> None:
    with pytest.raises(ValueError, match="not a cgroup name"):
        CgroupTree(v1, name)
    with pytest.raises(ValueError, match="not a cgroup name"):
        CgroupTree(v1, "ok").create(name)


def test_a_glance_resets_no_peak(v1: Hierarchies, v2: Hierarchies) -> None:
    tree = CgroupTree(v1, "worker")
    fill_v1(tree, "/x/y", 7, 1000, 100)
    reader = CgroupReader(1, tree.directories("/x/y"))
    (tree.directories("/x/y")["memory"] / "memory.usage_in_bytes").write_text("300\n")
    glance = reader.glance(0.0)
    assert (glance.cpu_ns, glance.peak_bytes) == (7, 200)
    assert reader.read(0.0).peak_bytes == 900  # the slice is charged its peak all the same
    reader.close()
    assert reader.glance(1.0) == Usage(7, 0)
    assert v2.v2 is not None
    fill_v2(v2.v2 / "x", 3, 5000, 100)
    reader = CgroupReader(2, {"": v2.v2 / "x"})
    assert reader.glance(0.0) == Usage(3000, 600)
    reader.close()
