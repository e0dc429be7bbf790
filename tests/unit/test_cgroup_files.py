"""Limits on recorded trees of cgroup v1, hybrid and v2: all of them or none, in the order that the kernel takes."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cgroup_trees import CONTAINER, UNLIMITED, Kernel, hybrid, v1, v2

from ocishim.errors import FailedPrecondition, InvalidArgument, OcishimError, OperationFailed
from ocishim.linux import cgroup
from ocishim.linux.cgroupfs import Cgroupfs
from ocishim.spec.runtime import Cpu, HugepageLimit, Memory, Pids, Resources

if TYPE_CHECKING:
    from collections.abc import Callable

TREES = {"v1": v1, "hybrid": hybrid, "v2": v2}
MIB = 1 << 20


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(cgroup, "write", made.write)
    return made


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root of cgroups of each kind."""
    make: Callable[[Path], Path] = TREES[request.param]
    return make(tmp_path)


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def value(root: Path, file: str) -> str:
    """Of the container's file, in whichever hierarchy it is."""
    paths = [Path(f"{base}{CONTAINER}/{file}") for base in cgroup.hierarchies(str(root))]
    return next(path for path in paths if path.exists()).read_text().strip()


def test_the_kind_of_hierarchy_is_told_by_its_root(tmp_path: Path) -> None:
    assert [cgroup.is_v2(str(make(tmp_path / name))) for name, make in TREES.items()] == [False, False, True]


def test_a_v1_controller_is_found_where_it_is_mounted_together_with_another(tmp_path: Path) -> None:
    root = str(v1(tmp_path))
    assert cgroup.hierarchy_of("cpuacct", root) == f"{root}/cpu,cpuacct"
    assert cgroup.hierarchy_of("cpu", root) == f"{root}/cpu,cpuacct"
    assert cgroup.hierarchy_of("net_cls", root) is None
    (tmp_path / "net_cls").mkdir()
    assert cgroup.hierarchy_of("net_cls", root) is None, "nothing is mounted there"
    assert len(cgroup.hierarchies(root)) == 7, "links are no hierarchies of their own"


def test_a_v2_controller_that_the_kernel_lacks_is_not_found(tmp_path: Path) -> None:
    root = str(v2(tmp_path))
    assert cgroup.hierarchy_of("memory", root) == root
    assert cgroup.hierarchy_of("freezer", root) is None


@pytest.mark.parametrize("path", ["/", "", "/a/../..", "//"])
def test_the_root_of_all_cgroups_is_never_a_target(path: str) -> None:
    with pytest.raises(ValueError, match="not a cgroup below the root"):
        cgroup.below("/sys/fs/cgroup", path)


async def test_a_v1_container_gets_each_of_its_limits(tmp_path: Path, kernel: Kernel) -> None:
    root = hybrid(tmp_path)
    wanted = Resources(
        cpu=Cpu(shares=512, quota=20000, period=50000, cpus="0-1", mems="0"),
        memory=Memory(limit=50 * MIB, swap=60 * MIB),
        pids=Pids(limit=100),
        hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)],
    )
    await Cgroupfs(str(root)).limit(CONTAINER, wanted)
    assert value(root, "cpu.shares") == "512"
    assert value(root, "cpu.cfs_quota_us") == "20000"
    assert value(root, "cpu.cfs_period_us") == "50000"
    assert value(root, "cpuset.cpus") == "0-1"
    assert value(root, "memory.limit_in_bytes") == str(50 * MIB)
    assert value(root, "memory.memsw.limit_in_bytes") == str(60 * MIB)
    assert value(root, "pids.max") == "100"
    assert value(root, "hugetlb.2MB.limit_in_bytes") == str(4 * MIB)


async def test_a_v2_container_gets_each_of_its_limits(tmp_path: Path, kernel: Kernel) -> None:
    root = v2(tmp_path)
    wanted = Resources(
        cpu=Cpu(shares=2048, quota=20000, period=50000, cpus="0-1"),
        memory=Memory(limit=50 * MIB, swap=60 * MIB),
        pids=Pids(limit=-1),
        hugepage_limits=[HugepageLimit(page_size="2MB", limit=0)],
        unified={"memory.high": "40000000"},
    )
    await Cgroupfs(str(root)).limit(CONTAINER, wanted)
    assert value(root, "cpu.weight") == "79"
    assert value(root, "cpu.max") == "20000 50000"
    assert value(root, "cpuset.cpus") == "0-1"
    assert value(root, "memory.max") == str(50 * MIB)
    assert value(root, "memory.swap.max") == str(10 * MIB), "v2 counts swap alone"
    assert value(root, "pids.max") == "max"
    assert value(root, "hugetlb.2MB.max") == "0"
    assert value(root, "memory.high") == "40000000"


@pytest.mark.parametrize(("limit", "swap"), [(50, 50), (200, 200), (200, 300), (50, 300), (-1, -1), (50, -1)])
async def test_v1_memory_and_swap_change_in_the_order_that_the_kernel_takes(
    tmp_path: Path, kernel: Kernel, limit: int, swap: int
) -> None:
    root = v1(tmp_path)
    memory = Memory(limit=limit * MIB if limit > 0 else -1, swap=swap * MIB if swap > 0 else -1)
    await Cgroupfs(str(root)).limit(CONTAINER, Resources(memory=memory))
    assert value(root, "memory.limit_in_bytes") == (str(memory.limit) if limit > 0 else UNLIMITED)
    assert value(root, "memory.memsw.limit_in_bytes") == (str(memory.swap) if swap > 0 else UNLIMITED)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ERANGE, errno.EBUSY, errno.EACCES, errno.EIO, errno.ENODEV])
async def test_what_the_kernel_refuses_leaves_all_as_it_was(tree: Path, kernel: Kernel, number: int) -> None:
    kernel.refuse("cpuset.cpus", "7", number)
    before = contents(tree)
    wanted = Resources(cpu=Cpu(shares=9, quota=3000, period=4000, cpus="7"), memory=Memory(limit=2 * MIB, swap=3 * MIB))
    with pytest.raises(OcishimError, match=r"cpuset\.cpus"):
        await Cgroupfs(str(tree)).limit(CONTAINER, wanted)
    assert contents(tree) == before


async def test_what_was_done_can_be_undone(tree: Path, kernel: Kernel) -> None:
    before = contents(tree)
    wanted = Resources(cpu=Cpu(shares=9, quota=3000, period=4000), memory=Memory(limit=900 * MIB, swap=901 * MIB))
    undo = await Cgroupfs(str(tree)).limit(CONTAINER, wanted)
    assert contents(tree) != before
    undo()
    assert contents(tree) == before


async def test_memory_below_what_is_used_is_refused_on_every_kind(tree: Path, kernel: Kernel) -> None:
    before = contents(tree)
    with pytest.raises(FailedPrecondition, match="1048576"):
        await Cgroupfs(str(tree)).limit(CONTAINER, Resources(memory=Memory(limit=4096)))
    assert contents(tree) == before, "v2 would have killed to meet it"


async def test_what_v2_can_reclaim_is_not_in_the_way(tmp_path: Path, kernel: Kernel) -> None:
    root = v2(tmp_path)
    kernel.cache = 1 << 19
    await Cgroupfs(str(root)).limit(CONTAINER, Resources(memory=Memory(limit=3 << 18)))
    assert value(root, "memory.max") == str(3 << 18)
    with pytest.raises(FailedPrecondition, match="its processes use"):
        await Cgroupfs(str(root)).limit(CONTAINER, Resources(memory=Memory(limit=4096)))


async def test_one_file_that_cannot_be_put_back_does_not_keep_the_others(tmp_path: Path, kernel: Kernel) -> None:
    root = v1(tmp_path)
    undo = await Cgroupfs(str(root)).limit(CONTAINER, Resources(cpu=Cpu(shares=5, cpus="0"), pids=Pids(limit=5)))
    kernel.refuse("cpu.shares", "1024", errno.EIO)
    undo()
    assert (value(root, "cpu.shares"), value(root, "cpuset.cpus"), value(root, "pids.max")) == ("5", "0-3", "max")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ERANGE, InvalidArgument),
        (errno.EINVAL, InvalidArgument),
        (errno.EBUSY, FailedPrecondition),
        (errno.ENODEV, FailedPrecondition),
        (errno.EIO, OperationFailed),
    ],
)
async def test_the_kernels_answer_says_whose_fault_it_is(
    tree: Path, kernel: Kernel, number: int, kind: type[OcishimError]
) -> None:
    kernel.refuse("cpuset.cpus", "0-99", number)
    with pytest.raises(kind, match="'0-99'"):
        await Cgroupfs(str(tree)).limit(CONTAINER, Resources(cpu=Cpu(cpus="0-99")))


async def test_a_cgroup_that_is_gone_is_no_bad_request(tree: Path, kernel: Kernel) -> None:
    with pytest.raises(FailedPrecondition, match="is gone"):
        await Cgroupfs(str(tree)).limit("/kubepods/pod1/vanished", Resources(cpu=Cpu(shares=5)))


async def test_a_page_size_that_the_kernel_lacks_is_a_bad_request(tree: Path, kernel: Kernel) -> None:
    with pytest.raises(InvalidArgument, match="64KB"):
        await Cgroupfs(str(tree)).limit(
            CONTAINER, Resources(hugepage_limits=[HugepageLimit(page_size="64KB", limit=0)])
        )


async def test_a_controller_that_is_not_mounted_is_named(tmp_path: Path, kernel: Kernel) -> None:
    root = v1(tmp_path)
    (root / "pids").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(FailedPrecondition, match="'pids'"):
        await Cgroupfs(str(root)).limit(CONTAINER, Resources(pids=Pids(limit=5)))


async def test_a_missing_parent_is_made_in_every_hierarchy(tree: Path, kernel: Kernel) -> None:
    await Cgroupfs(str(tree)).make("/new/pod")
    assert all((tree / base / "new/pod").is_dir() for base in cgroup.hierarchies(str(tree)))
    await Cgroupfs(str(tree)).make("/new/pod")


async def test_a_name_that_is_a_file_of_the_kernels_is_no_cgroup(tree: Path, kernel: Kernel) -> None:
    for path in ("/cgroup.procs", "/cgroup.procs/below"):
        with pytest.raises(OperationFailed, match=r"cannot be made.*File exists"):
            await Cgroupfs(str(tree)).make(path)


async def test_v2_children_are_given_the_controllers_that_are_missing(tmp_path: Path, kernel: Kernel) -> None:
    root = v2(tmp_path)
    await Cgroupfs(str(root)).make("/new/pod")
    assert kernel.written == [(f"{root}/cgroup.subtree_control", "+hugetlb")]


async def test_v1_cpusets_are_filled_from_the_parents(tmp_path: Path, kernel: Kernel) -> None:
    root = v1(tmp_path)
    new = root / "cpuset/new"
    new.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems", "cpuset.sched_load_balance"):
        (new / file).write_text("")
    await Cgroupfs(str(root)).make("/new")
    assert (new / "cpuset.cpus").read_text().strip() == "0-3"
    assert (new / "cpuset.mems").read_text().strip() == "0"


async def test_a_monitor_is_moved_in_every_hierarchy(tree: Path, kernel: Kernel) -> None:
    await Cgroupfs(str(tree)).adopt("/kubepods/pod1/ocishim-monitor-1", 4321)
    moved = [path for path, written in kernel.written if written == "4321"]
    assert moved == [f"{base}/kubepods/pod1/ocishim-monitor-1/cgroup.procs" for base in cgroup.hierarchies(str(tree))]


async def test_a_monitor_that_cannot_be_moved_is_an_error_in_the_kernels_words(tree: Path, kernel: Kernel) -> None:
    kernel.refuse("cgroup.procs", "4321", errno.ESRCH)
    with pytest.raises(OperationFailed, match="No such process"):
        await Cgroupfs(str(tree)).adopt("/kubepods/pod1/ocishim-monitor-1", 4321)


async def test_two_changes_at_once_leave_the_one_or_the_other(tmp_path: Path, kernel: Kernel) -> None:
    driver = Cgroupfs(str(v1(tmp_path)))
    await asyncio.gather(*(driver.limit(CONTAINER, Resources(cpu=Cpu(shares=shares))) for shares in (100, 200, 300)))
    assert value(tmp_path, "cpu.shares") in {"100", "200", "300"}
