"""Limits as they are asked for, changed, added up, and told to kernels, runtimes and systemd."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.spec import runtime as spec
from ocishim.translate import limits, resource_checks, resources
from ocishim.translate.facts import HostFacts
from ocishim.translate.unit_properties import Property, bit_mask, unit_properties

INFINITY = 2**64 - 1
V2 = HostFacts(
    architecture="x86_64",
    cgroup_v2=True,
    has_hugetlb=True,
    has_swap_accounting=True,
    has_apparmor=False,
    has_selinux=False,
    capabilities=frozenset(),
    may_raise_limits=True,
    oom_score_adj=0,
)
V1 = dataclasses.replace(V2, cgroup_v2=False)


def asked(**fields: object) -> v1.LinuxContainerResources:
    return v1.LinuxContainerResources(**fields)  # type: ignore[arg-type] # each of its own type


# --- translation ---


def test_a_memory_limit_alone_allows_no_swap() -> None:
    found = resources.resources(asked(memory_limit_in_bytes=100), V1)
    assert found.memory == spec.Memory(limit=100, swap=100)


def test_a_new_container_is_not_told_that_it_is_unlimited() -> None:
    unlimited = asked(cpu_quota=-1, cpu_period=5000, memory_limit_in_bytes=-1, memory_swap_limit_in_bytes=-1)
    assert resources.new_container(unlimited, V1) == spec.Resources(cpu=spec.Cpu(period=5000))
    swapping = asked(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=-1)
    assert resources.new_container(swapping, V1) == spec.Resources(memory=spec.Memory(limit=100))


def test_swap_is_left_out_where_the_kernel_does_not_count_it() -> None:
    host = dataclasses.replace(V1, has_swap_accounting=False)
    found = resources.resources(asked(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=300), host)
    assert found.memory == spec.Memory(limit=100)


def test_huge_pages_are_left_out_where_the_controller_is_missing() -> None:
    pages = [v1.HugepageLimit(page_size="2MB", limit=0)]
    assert resources.resources(asked(hugepage_limits=pages), V1).hugepage_limits == [
        spec.HugepageLimit(page_size="2MB", limit=0)
    ]
    assert resources.resources(asked(hugepage_limits=pages), dataclasses.replace(V1, has_hugetlb=False)) == (
        spec.Resources()
    )


def test_processes_are_limited_by_configuration_only() -> None:
    assert resources.resources(asked(), V2).pids is None
    assert resources.resources(asked(), V2, pids_limit=64).pids == spec.Pids(limit=64)


@pytest.mark.parametrize(
    ("shares", "linear", "keeping"),
    [
        (2, 1, 1),
        (100, 4, 17),
        (1024, 39, 100),
        (2048, 79, 174),
        (262144, 10000, 10000),
        (1, 1, 1),
        (999999, 10000, 10000),
    ],
)
def test_shares_become_weight(shares: int, linear: int, keeping: int) -> None:
    assert limits.linear_weight(shares) == linear
    assert limits.default_keeping_weight(shares) == keeping


@given(st.integers(2, 262144))
def test_a_runtimes_rule_is_known_by_what_it_has_made(shares: int) -> None:
    for rule in (limits.linear_weight, limits.default_keeping_weight):
        assert limits.weight_rule(shares, rule(shares))(shares) == rule(shares)


def test_an_unknown_weight_means_the_older_rule() -> None:
    assert limits.weight_rule(1024, 0) is limits.linear_weight
    assert limits.weight_rule(1024, 555) is limits.linear_weight


@pytest.mark.parametrize(
    ("memory", "written"),
    [
        (spec.Memory(limit=100, swap=100), [("memory.max", "100"), ("memory.swap.max", "0")]),
        (spec.Memory(limit=100, swap=250), [("memory.max", "100"), ("memory.swap.max", "150")]),
        (spec.Memory(limit=100, swap=-1), [("memory.max", "100"), ("memory.swap.max", "max")]),
        (spec.Memory(limit=-1, swap=-1), [("memory.max", "max"), ("memory.swap.max", "max")]),
        (spec.Memory(limit=100), [("memory.max", "100")]),
        (spec.Memory(swap=100), []),
    ],
)
def test_v2_counts_swap_without_memory(memory: spec.Memory, written: list[tuple[str, str]]) -> None:
    assert [write[1:] for write in limits.writes(spec.Resources(memory=memory), v2=True)] == written


@pytest.mark.parametrize(
    ("cpu", "written"),
    [
        (spec.Cpu(quota=-1), "max 100000"),
        (spec.Cpu(quota=-1, period=50000), "max 50000"),
        (spec.Cpu(quota=2000), "2000 100000"),
        (spec.Cpu(quota=2000, period=50000), "2000 50000"),
        (spec.Cpu(period=50000), "max 50000"),
    ],
)
def test_v2_quota_and_period_are_one_value(cpu: spec.Cpu, written: str) -> None:
    assert limits.writes(spec.Resources(cpu=cpu), v2=True) == (limits.Write("cpu", "cpu.max", written),)


def test_a_v1_quota_of_minus_one_is_written_as_it_is() -> None:
    assert limits.writes(spec.Resources(cpu=spec.Cpu(quota=-1)), v2=False) == (
        limits.Write("cpu", "cpu.cfs_quota_us", "-1"),
    )


def test_nothing_asked_is_nothing_written() -> None:
    for v2 in (False, True):
        assert limits.writes(spec.Resources(), v2=v2) == ()
        assert unit_properties(spec.Resources(), v2=v2) == ()


def test_unified_files_tell_their_controller() -> None:
    found = limits.writes(spec.Resources(unified={"io.max": "8:0 rbps=1", "hugetlb.2MB.max": "0"}), v2=True)
    assert found == (limits.Write("io", "io.max", "8:0 rbps=1"), limits.Write("hugetlb", "hugetlb.2MB.max", "0"))


# --- systemd ---


def test_a_v2_unit_gets_the_same_limits_as_properties() -> None:
    wanted = spec.Resources(
        memory=spec.Memory(limit=100, swap=-1),
        cpu=spec.Cpu(shares=1024, quota=20000, period=50000, cpus="0-1,9", mems="0"),
        pids=spec.Pids(limit=-1),
        unified={"memory.high": "max", "memory.low": "7", "io.max": "8:0 rbps=1"},
    )
    assert set(map(repr, unit_properties(wanted, v2=True))) == {
        repr(Property(*each))
        for each in (
            ("MemoryMax", "t", 100),
            ("MemorySwapMax", "t", INFINITY),
            ("CPUWeight", "t", 39),
            ("CPUQuotaPeriodUSec", "t", 50000),
            ("CPUQuotaPerSecUSec", "t", 400_000),
            ("AllowedCPUs", "ay", b"\x03\x02"),
            ("AllowedMemoryNodes", "ay", b"\x01"),
            ("TasksMax", "t", INFINITY),
            ("MemoryHigh", "t", INFINITY),
            ("MemoryLow", "t", 7),
        )
    }


def test_a_v1_unit_gets_the_properties_of_its_time() -> None:
    wanted = spec.Resources(memory=spec.Memory(limit=-1, swap=-1), cpu=spec.Cpu(shares=1024, quota=-1, cpus="0"))
    assert unit_properties(wanted, v2=False) == (
        Property("MemoryLimit", "t", INFINITY),
        Property("CPUShares", "t", 1024),
        Property("CPUQuotaPerSecUSec", "t", INFINITY),
    )


@given(st.integers(1000, 2**40), st.integers(1000, 1_000_000))
def test_a_quota_is_never_rounded_down_to_none(quota: int, period: int) -> None:
    (found,) = (
        each.value
        for each in unit_properties(spec.Resources(cpu=spec.Cpu(quota=quota, period=period)), v2=True)
        if each.name == "CPUQuotaPerSecUSec"
    )
    assert isinstance(found, int)
    assert found >= quota * 1_000_000 // period
    assert found - 10_000 < quota * 1_000_000 / period
    assert found % 10_000 == 0


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=40))
def test_a_list_and_its_mask_say_the_same(numbers: set[int]) -> None:
    listed = ",".join(map(str, sorted(numbers)))
    assert limits.cpus_of(listed) == numbers
    mask = int.from_bytes(bit_mask(listed), "little")
    assert {number for number in range(8192) if mask >> number & 1} == numbers


@given(st.text(alphabet="0123456789-, x", max_size=20))
def test_a_list_is_numbers_or_a_value_error(text: str) -> None:
    try:
        found = limits.cpus_of(text)
    except ValueError:
        return
    assert found
    assert set(text) <= set("0123456789-,")


# --- updates ---

WHOLE = st.builds(
    v1.LinuxContainerResources,
    cpu_period=st.sampled_from([0, 50000]),
    cpu_quota=st.sampled_from([0, -1, 20000]),
    cpu_shares=st.sampled_from([0, 2, 1024]),
    memory_limit_in_bytes=st.sampled_from([0, -1, 1 << 30]),
    oom_score_adj=st.sampled_from([0, -998, 1000]),
    cpuset_cpus=st.sampled_from(["", "0", "0-3"]),
    hugepage_limits=st.lists(st.builds(v1.HugepageLimit, page_size=st.sampled_from(["2MB"])), max_size=1),
    unified=st.dictionaries(st.sampled_from(["memory.high"]), st.just("max")),
)


@given(WHOLE, WHOLE)
def test_an_update_changes_what_it_names_and_nothing_else(
    current: v1.LinuxContainerResources, update: v1.LinuxContainerResources
) -> None:
    result = resources.merged(current, update)
    for field in dataclasses.fields(v1.LinuxContainerResources):
        new, old, now = (getattr(each, field.name) for each in (update, current, result))
        assert now == (new or old)
    assert resources.merged(result, update) == result
    assert resources.merged(current, v1.LinuxContainerResources()) == current


def test_a_new_memory_limit_moves_the_swap_limit_that_nobody_gave() -> None:
    update = asked(memory_limit_in_bytes=300)
    result = resources.merged(asked(memory_limit_in_bytes=100, cpu_shares=5), update)
    part = resources.change(result, update)
    assert resources.resources(part, V1) == spec.Resources(memory=spec.Memory(limit=300, swap=300))


def test_a_new_period_is_written_with_the_quota_that_holds() -> None:
    update = asked(cpu_period=50000)
    part = resources.change(resources.merged(asked(cpu_quota=7000), update), update)
    assert resources.resources(part, V2).cpu == spec.Cpu(quota=7000, period=50000)


def test_a_pod_has_its_containers_sum_and_its_overhead() -> None:
    total = resources.pod_total(
        asked(cpu_shares=100, cpu_quota=50000, cpu_period=100000, memory_limit_in_bytes=1000),
        asked(cpu_shares=10, cpu_quota=5000, cpu_period=50000, memory_limit_in_bytes=24),
    )
    assert total == asked(cpu_shares=110, cpu_quota=60000, cpu_period=100000, memory_limit_in_bytes=1024)


def test_overhead_alone_limits_nothing() -> None:
    overhead = asked(cpu_shares=10, cpu_quota=5000, memory_limit_in_bytes=24)
    assert resources.pod_total(asked(), overhead) == asked()
    assert resources.pod_total(asked(cpu_quota=-1, memory_limit_in_bytes=-1), overhead) == (
        asked(cpu_quota=-1, memory_limit_in_bytes=-1)
    )


# --- bad input ---

BAD: dict[str, list[object]] = {
    "cpu_period": [-1, 1, 999, 1_000_001, 2**63 - 1],
    "cpu_shares": [-1, 1, 262_145, -(2**63)],
    "cpu_quota": [-2, 1, 999, 2**63 - 1, -(2**63)],
    "memory_limit_in_bytes": [-2, 2**63 - 1, -(2**63)],
    "memory_swap_limit_in_bytes": [-2, 2**63 - 1],
    "oom_score_adj": [-1001, 1001, 2**40],
    "cpuset_cpus": [
        "x",
        "0-",
        "-1",
        "1-0",
        "0,,1",
        ",",
        " 0",
        "0\n",
        "0\0",
        "0-9999999999",
        "0;1",
        "٣",
        "0-3:1/2",
        "0," * 3000,
    ],
    "cpuset_mems": ["node0", "0-"],
    "unified": [
        {"": "1"},
        {"memory": "1"},
        {"../memory.max": "1"},
        {"memory.max/x": "1"},
        {"cgroup.procs": "1"},
        {"cgroup.kill": "1"},
        {"memory.max": "1\0"},
        {"memory.max": "1" * 5000},
        {"memory.max\n": "1"},
    ],
    "hugepage_limits": [
        [v1.HugepageLimit(page_size="")],
        [v1.HugepageLimit(page_size="2")],
        [v1.HugepageLimit(page_size="../2MB")],
        [v1.HugepageLimit(page_size="2MB\n")],
        [v1.HugepageLimit(page_size="2MB", limit=2**64 - 1)],
        [v1.HugepageLimit(page_size="2MB"), v1.HugepageLimit(page_size="2MB")],
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_a_value_that_is_none_is_refused_by_its_fields_path(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=rf"^linux\.{field}"):
        resource_checks.check("linux", asked(**{field: value}))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cpu_quota": -1},
        {"memory_limit_in_bytes": -1, "memory_swap_limit_in_bytes": -1},
        {"memory_limit_in_bytes": 5, "memory_swap_limit_in_bytes": 5},
        {"memory_swap_limit_in_bytes": 5},
        {"cpuset_cpus": "0-2,7", "cpuset_mems": "0"},
        {"hugepage_limits": [v1.HugepageLimit(page_size="1GB", limit=1 << 30), v1.HugepageLimit(page_size="64KB")]},
        {"unified": {"memory.high": "max", "hugetlb.2MB.rsvd.max": "0", "io.max": "8:0 rbps=1"}},
        {"cpu_shares": 2, "cpu_period": 1000, "oom_score_adj": -1000},
    ],
)
def test_what_kubelet_sends_is_taken(fields: dict[str, object]) -> None:
    resource_checks.check("linux", asked(**fields))


@pytest.mark.parametrize(("memory", "swap"), [(100, 99), (0, 100), (-1, 100)])
def test_swap_is_never_less_than_the_memory_it_is_counted_with(memory: int, swap: int) -> None:
    whole = asked(memory_limit_in_bytes=memory, memory_swap_limit_in_bytes=swap)
    with pytest.raises(InvalidArgument, match="memory_swap_limit_in_bytes"):
        resource_checks.check_whole("linux", whole)


def test_files_of_v2_are_refused_on_v1_by_name() -> None:
    with pytest.raises(InvalidArgument, match=r"unified: memory\.high.*this host has v1"):
        resource_checks.check_on_host("linux", asked(unified={"memory.high": "1"}), V1)
    resource_checks.check_on_host("linux", asked(unified={"memory.high": "1"}), V2)
