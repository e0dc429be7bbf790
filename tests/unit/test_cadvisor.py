"""The metrics of /metrics/cadvisor: a static table, and samples that keep to it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from ocishim.cri.metrics_encoding import descriptors
from ocishim.metrics import cadvisor
from ocishim.metrics.cadvisor import CONTAINER_METRICS, NETWORK_METRICS, Facts, Metric
from ocishim.metrics.reading import Cgroups, Filesystem, Processes

TREES = Path(__file__).parent / "cgroups"
KUBELETS = (
    "blkio_device_usage_total",
    "cpu_cfs_periods_total",
    "cpu_cfs_throttled_periods_total",
    "cpu_cfs_throttled_seconds_total",
    "cpu_system_seconds_total",
    "cpu_usage_seconds_total",
    "cpu_user_seconds_total",
    "file_descriptors",
    "fs_inodes_free",
    "fs_inodes_total",
    "fs_limit_bytes",
    "fs_reads_bytes_total",
    "fs_reads_total",
    "fs_usage_bytes",
    "fs_writes_bytes_total",
    "fs_writes_total",
    "hugetlb_max_usage_bytes",
    "hugetlb_usage_bytes",
    "last_seen",
    "memory_cache",
    "memory_failcnt",
    "memory_failures_total",
    "memory_kernel_usage",
    "memory_mapped_file",
    "memory_max_usage_bytes",
    "memory_rss",
    "memory_swap",
    "memory_usage_bytes",
    "memory_working_set_bytes",
    "network_receive_bytes_total",
    "network_receive_errors_total",
    "network_receive_packets_dropped_total",
    "network_receive_packets_total",
    "network_transmit_bytes_total",
    "network_transmit_errors_total",
    "network_transmit_packets_dropped_total",
    "network_transmit_packets_total",
    "oom_events_total",
    "pressure_cpu_stalled_seconds_total",
    "pressure_cpu_waiting_seconds_total",
    "pressure_io_stalled_seconds_total",
    "pressure_io_waiting_seconds_total",
    "pressure_memory_stalled_seconds_total",
    "pressure_memory_waiting_seconds_total",
    "processes",
    "sockets",
    "spec_cpu_period",
    "spec_cpu_quota",
    "spec_cpu_shares",
    "spec_memory_limit_bytes",
    "spec_memory_reservation_limit_bytes",
    "spec_memory_swap_limit_bytes",
    "start_time_seconds",
    "threads",
    "threads_max",
    "ulimits_soft",
)
"""What kubelet shows with cAdvisor, without the prefix container_."""
METRICS = {each.name.removeprefix("container_"): each for each in CONTAINER_METRICS}


def facts(tmp_path: Path, name: str = "hybrid") -> Facts:
    """All there is to know of a recorded container."""
    shutil.copytree(TREES / name, tmp_path, dirs_exist_ok=True)
    if name == "v2":
        (tmp_path / "cgroup.controllers").touch()
    usage, details = Cgroups(str(tmp_path)).all("/pod/container")
    return Facts(
        usage=usage,
        details=details,
        processes=Processes(2, 7, 1),
        open_files_limit=1024,
        filesystem=Filesystem(1 << 30, 1000, 900),
        device="/dev/vda",
        written=8388608,
        started_at=1_700_000_000 * 10**9,
        now=1_700_000_005 * 10**9,
        device_name=lambda major, minor: f"/dev/{major}-{minor}",
    )


def samples(metric: Metric, known: Facts) -> dict[tuple[str, ...], int]:
    """Those that there are."""
    return {labels: value for labels, value in metric.samples(known) if value is not None}


def test_every_metric_that_kubelet_shows_has_its_descriptor() -> None:
    assert {f"container_{name}" for name in KUBELETS} <= {name for name, _, _ in cadvisor.descriptors()}
    assert len(KUBELETS) == 56


def test_descriptors_are_unique_and_each_has_help_and_labels() -> None:
    found = descriptors().descriptors
    assert len({each.name for each in found}) == len(found) == len(CONTAINER_METRICS) + len(NETWORK_METRICS)
    assert all(each.help and each.label_keys[:6] == list(cadvisor.BASE_LABELS) for each in found)
    assert all(len(set(each.label_keys)) == len(each.label_keys) for each in found)
    assert descriptors() == descriptors()


def test_counters_are_those_that_only_grow() -> None:
    counters = {name for name, each in METRICS.items() if each.is_counter}
    assert counters == {name for name in METRICS if name.endswith("_total")} - {"fs_inodes_total"} | {"memory_failcnt"}


@pytest.mark.parametrize("tree", ["hybrid", "v2"])
@pytest.mark.parametrize("metric", CONTAINER_METRICS, ids=lambda metric: metric.name)
def test_every_sample_has_its_metrics_labels_and_no_two_have_the_same(
    tmp_path: Path, metric: Metric, tree: str
) -> None:
    found = [(labels, value) for labels, value in metric.samples(facts(tmp_path, tree)) if value is not None]
    assert all(len(labels) == len(metric.labels) for labels, _ in found)
    assert len({labels for labels, _ in found}) == len(found)
    assert all(value >= 0 for _, value in found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu_usage_seconds_total", {("total",): 0}),
        ("cpu_cfs_periods_total", {(): 22}),
        ("spec_cpu_quota", {(): 50000}),
        ("memory_working_set_bytes", {(): 536576}),
        ("memory_cache", {(): 8388608}),
        ("fs_usage_bytes", {("/dev/vda",): 8388608}),
        ("fs_inodes_free", {("/dev/vda",): 900}),
        ("fs_writes_bytes_total", {("/dev/253-0",): 8388608}),
        ("threads_max", {(): 0}),
        ("ulimits_soft", {("max_open_files",): 1024}),
        ("start_time_seconds", {(): 1_700_000_000}),
        ("last_seen", {(): 1_700_000_005}),
        ("sockets", {(): 1}),
    ],
)
def test_values(tmp_path: Path, name: str, expected: dict[tuple[str, ...], int]) -> None:
    assert samples(METRICS[name], facts(tmp_path)) == expected


def test_labels_with_several_values(tmp_path: Path) -> None:
    known = facts(tmp_path)
    assert samples(METRICS["blkio_device_usage_total"], known) == {
        ("/dev/253-0", "253", "0", "Read"): 0,
        ("/dev/253-0", "253", "0", "Write"): 8388608,
    }
    assert samples(METRICS["memory_failures_total"], known) == {
        ("pgfault", "container"): 527,
        ("pgfault", "hierarchy"): 527,
        ("pgmajfault", "container"): 0,
        ("pgmajfault", "hierarchy"): 0,
    }


def test_seconds_come_from_version_2_alike(tmp_path: Path) -> None:
    known = facts(tmp_path, "v2")
    assert samples(METRICS["cpu_usage_seconds_total"], known) == {("total",): 2}
    assert samples(METRICS["cpu_user_seconds_total"], known) == {(): 1}
    assert samples(METRICS["oom_events_total"], known) == {(): 1}


def test_a_container_without_a_quota_is_not_throttled(tmp_path: Path) -> None:
    known = facts(tmp_path)
    free = dataclasses.replace(known, details=Cgroups(str(tmp_path / "cpuacct")).all("/pod/absent")[1])
    assert samples(METRICS["cpu_cfs_periods_total"], free) == {}
    assert samples(METRICS["spec_cpu_quota"], free) == {}


def test_what_the_kernel_does_not_tell_has_no_sample(tmp_path: Path) -> None:
    usage, details = Cgroups(str(tmp_path)).all("/pod/absent")
    empty = dataclasses.replace(
        facts(tmp_path),
        usage=usage,
        details=details,
        processes=None,
        open_files_limit=None,
        filesystem=None,
        written=None,
    )
    told = {name for name, metric in METRICS.items() if samples(metric, empty)}
    assert told == {"last_seen", "start_time_seconds"}
