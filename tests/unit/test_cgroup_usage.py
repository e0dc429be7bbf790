"""Usage from recorded cgroup trees: version 2, and version 1 with version 2's bare tree beside it or without."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from ocishim.lifecycle.stats import shared
from ocishim.metrics.cgroup_v2 import shares_of
from ocishim.metrics.kernel import Stall
from ocishim.metrics.reading import Cgroups, page_size
from ocishim.metrics.usage import Cpu, Memory, Swap, Usage, total

TREES = Path(__file__).parent / "cgroups"
CONTAINER = "/pod/container"


def tree(tmp_path: Path, name: str) -> Cgroups:
    """A copy of a recorded tree, with the file by which a pure version 2 host is known."""
    shutil.copytree(TREES / name, tmp_path, dirs_exist_ok=True)
    if name == "v2":
        (tmp_path / "cgroup.controllers").touch()
    return Cgroups(str(tmp_path))


def values(usage: Usage) -> dict[str, dict[str, object] | None]:
    """All numbers, without times and pressure."""
    parts = {"cpu": usage.cpu, "memory": usage.memory, "swap": usage.swap}
    return {
        name: {key: value for key, value in asdict(part).items() if key not in ("at", "pressure")} if part else None
        for name, part in parts.items()
    }


def test_version_1(tmp_path: Path) -> None:
    assert values(tree(tmp_path, "hybrid").usage(CONTAINER)) == {
        "cpu": {"usage": 479850748},
        "memory": {
            "usage": 8925184,
            "working_set": 8925184 - 8388608,
            "available": 67108864 - (8925184 - 8388608),
            "rss": 102400,
            "page_faults": 527,
            "major_page_faults": 0,
        },
        "swap": {"usage": 0, "available": 100663296 - 67108864},
    }


def test_version_2(tmp_path: Path) -> None:
    assert values(tree(tmp_path, "v2").usage(CONTAINER)) == {
        "cpu": {"usage": 2104467000},
        "memory": {
            "usage": 58851328,
            "working_set": 58851328 - 4194304,
            "available": 134217728 - (58851328 - 4194304),
            "rss": 52453376,
            "page_faults": 14002,
            "major_page_faults": 3,
        },
        "swap": {"usage": 4096, "available": 67108864 - 4096},
    }


@pytest.mark.parametrize("name", ["hybrid", "v2"])
def test_pressure_is_told_where_the_kernel_has_it(tmp_path: Path, name: str) -> None:
    found = tree(tmp_path, name).usage(CONTAINER)
    assert found.io
    assert found.io.pressure.some == Stall(28932000, 0.14, 0.03, 0.0)
    assert found.cpu
    assert found.cpu.pressure
    assert found.memory
    assert found.memory.pressure


def test_version_1_alone_has_no_pressure_and_all_the_rest(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, "hybrid")
    before = values(cgroups.usage(CONTAINER))
    shutil.rmtree(tmp_path / "unified")
    found = cgroups.usage(CONTAINER)
    assert values(found) == before
    assert found.io is None
    assert found.cpu
    assert found.cpu.pressure is None


def test_details_of_version_1(tmp_path: Path) -> None:
    found = tree(tmp_path, "hybrid").all(CONTAINER)[1]
    assert asdict(found.cpu) == {
        "user": 487619267,
        "system": 8000000,
        "periods": 22,
        "throttled_periods": 1,
        "throttled": 13312375,
        "quota": 50000,
        "period": 100000,
        "shares": 512,
    }
    assert (found.memory.cache, found.memory.kernel, found.memory.most) == (8388608, 434176, 10194944)
    assert (found.memory.limit, found.memory.reservation, found.memory.swap_limit) == (67108864, 0, 100663296)
    assert (found.threads, found.threads_limit) == (2, 0)
    (device,) = found.devices
    assert asdict(device) == {
        "major": 253,
        "minor": 0,
        "read_bytes": 0,
        "write_bytes": 8388608,
        "reads": 0,
        "writes": 9,
    }


def test_details_of_version_2(tmp_path: Path) -> None:
    found = tree(tmp_path, "v2").all(CONTAINER)[1]
    assert asdict(found.cpu) == {
        "user": 1503345000,
        "system": 601122000,
        "periods": 31,
        "throttled_periods": 12,
        "throttled": 884311000,
        "quota": 50000,
        "period": 100000,
        "shares": 500,
    }
    assert (found.memory.limit_hits, found.memory.oom_kills, found.memory.most) == (7, 1, 60030976)
    assert (found.threads, found.threads_limit) == (4, 4096)
    (device,) = found.devices
    assert (device.major, device.read_bytes, device.writes) == (253, 1519616, 9)


def test_a_process_that_the_server_cannot_see_is_not_counted(tmp_path: Path) -> None:
    assert tree(tmp_path, "v2").processes(CONTAINER) == [812, 813]
    assert Cgroups(str(tmp_path)).processes("/pod/gone") is None


@pytest.mark.parametrize("name", ["hybrid", "v2"])
def test_a_cgroup_that_is_gone_uses_nothing(tmp_path: Path, name: str) -> None:
    cgroups = tree(tmp_path, name)
    assert cgroups.usage("/pod/gone").is_empty
    assert cgroups.cpu_usage("/pod/gone") is None


@pytest.mark.parametrize("name", ["hybrid", "v2"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\n", b"max\n", b"-5\n", b"9" * 100_000])
def test_one_odd_file_takes_only_its_own_values_away(tmp_path: Path, name: str, content: bytes | None) -> None:
    cgroups = tree(tmp_path, name)
    whole = cgroups.usage(CONTAINER)
    for odd in tmp_path.rglob("cpu*"):
        if odd.is_file():
            odd.unlink()
            if content is not None:
                odd.write_bytes(content)
    found = cgroups.usage(CONTAINER)
    assert found.cpu is None
    assert values(found) | {"cpu": None} == values(whole) | {"cpu": None}


def test_more_inactive_file_pages_than_usage_is_no_working_set(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, "v2")
    (tmp_path / "pod/container/memory.current").write_text("4096\n")
    found = cgroups.usage(CONTAINER).memory
    assert found
    assert found.working_set == 0


def test_without_limits_nothing_is_said_to_be_available(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, "v2")
    for name in ("memory.max", "memory.swap.max"):
        (tmp_path / "pod/container" / name).write_text("max\n")
    found = cgroups.usage(CONTAINER)
    assert found.memory
    assert found.memory.available is None
    assert found.swap
    assert found.swap.available is None


def test_without_swap_accounting_there_is_no_swap(tmp_path: Path) -> None:
    cgroups = tree(tmp_path, "hybrid")
    (tmp_path / "memory/pod/container/memory.memsw.limit_in_bytes").unlink()
    assert cgroups.usage(CONTAINER).swap is None


@pytest.mark.parametrize(("weight", "shares"), [(1, 2), (100, 2597), (10000, 262144), (0, 2), (99999, 262144)])
def test_weights_as_shares(weight: int, shares: int) -> None:
    assert shares_of(weight) == shares


@pytest.mark.parametrize(("kilobytes", "name"), [(64, "64KB"), (2048, "2MB"), (32768, "32MB"), (1 << 20, "1GB")])
def test_sizes_of_huge_pages(kilobytes: int, name: str) -> None:
    assert page_size(kilobytes) == name


def test_usage_of_several_cgroups_is_their_sum_without_what_cannot_be_summed() -> None:
    one = Usage(Cpu(5, 100, None), Memory(5, 10, 8, 90, 4, None, 1, None), Swap(5, 3, 7), None)
    other = Usage(Cpu(6, 50, None), Memory(7, 20, None, None, 2, None, 2, None), None, None)
    assert total([one, other]) == Usage(
        Cpu(6, 150, None), Memory(7, 30, 8, None, 6, None, 3, None), Swap(5, 3, None), None
    )
    assert total([]).is_empty


def test_a_cgroup_is_shared_when_another_pod_has_it_or_lies_below() -> None:
    assert shared(["/a/1", "/a/2", "/b", "/b", "/c", "/c/d"]) == {"/", "", "/b", "/c"}
