"""Where cgroups are: in cgroupfs's notation, in systemd's, and as configuration has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim import config
from ocishim.errors import InvalidArgument
from ocishim.translate import cgroups

if TYPE_CHECKING:
    from pathlib import Path

    from ocishim.config import Settings

POD = "b" * 64
CONTAINER = "c" * 64


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.slice", "/a.slice"),
        ("a-b.slice", "/a.slice/a-b.slice"),
        (
            "kubepods-burstable-pod1234_5.slice",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_5.slice",
        ),
        (r"a\x2db.slice", r"/a\x2db.slice"),
    ],
)
def test_a_slices_name_spells_where_it_is(name: str, path: str) -> None:
    assert cgroups.expand_slice(name) == path


@given(st.lists(st.text(alphabet="abc019_.:", min_size=1, max_size=9), min_size=1, max_size=5))
def test_each_part_of_an_expanded_slice_is_in_the_one_before(parts: list[str]) -> None:
    name = "-".join(parts) + ".slice"
    path = cgroups.expand_slice(name)
    assert path.count("/") == len(parts)
    assert path.rsplit("/", 1)[1] == name
    assert len(parts) == 1 or path.rsplit("/", 1)[0] == cgroups.expand_slice("-".join(parts[:-1]) + ".slice")


@pytest.mark.parametrize(
    "name",
    ["", ".slice", "-.slice", "a", "a.scope", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "a b.slice",
     "a\nb.slice", "a\n.slice", "..slice/x", "é.slice", "a" * 300 + ".slice"],
)  # fmt: skip
def test_what_names_no_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="slice"):
        cgroups.expand_slice(name)


def test_a_pod_is_where_its_request_says_or_below_the_default() -> None:
    assert cgroups.pod_cgroup("", "cgroupfs", "/ocishim", POD) == f"/ocishim/{POD}"
    assert cgroups.pod_cgroup("", "cgroupfs", "/", POD) == f"/{POD}"
    assert cgroups.pod_cgroup("/a//b/", "cgroupfs", "/ocishim", POD) == "/a/b"
    assert cgroups.pod_cgroup("", "systemd", "ocishim.slice", POD) == f"/ocishim.slice/ocishim-{POD}.slice"
    assert cgroups.pod_cgroup("a-b.slice", "systemd", "ocishim.slice", POD) == "/a.slice/a-b.slice"


def test_kubelet_names_a_slice_by_its_whole_path() -> None:
    path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice"
    assert cgroups.pod_cgroup(path, "systemd", "ocishim.slice", POD) == path


@pytest.mark.parametrize(
    ("asked", "driver", "words"),
    [
        ("kubepods.slice", "cgroupfs", "cgroupDriver"),
        ("/kubepods.slice/kubepods-pod1.slice", "cgroupfs", "cgroupDriver"),
        ("relative", "cgroupfs", "absolute"),
        ("/a/../../b", "cgroupfs", r"\.\."),
        ("/", "cgroupfs", "root"),
        ("/./", "cgroupfs", "root"),
        ("/a\nb", "cgroupfs", "line break"),
        ("/" + "a" * 256, "cgroupfs", "longer than 255"),
        ("/" + "é" * 130, "cgroupfs", "longer than 255"),
        ("/abcdefghi" * 400, "cgroupfs", "too many"),
        ("/a\0b", "cgroupfs", "NUL"),
        ("/kubepods/pod1", "systemd", "cgroupDriver"),
        ("-.slice", "systemd", "root slice"),
        ("a--b.slice", "systemd", "no name of a slice"),
        ("/elsewhere/a-b.slice", "systemd", "/a.slice/a-b.slice"),
        ("../a.slice", "systemd", "/a.slice"),
        ("a.slice\n", "systemd", "line break"),
    ],
)
def test_the_other_drivers_notation_and_garbage_are_refused(
    asked: str, driver: config.CgroupDriverName, words: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"^config.linux.cgroup_parent: .*{words}"):
        cgroups.pod_cgroup(asked, driver, "/ocishim", POD)


def test_a_container_and_what_its_runtime_is_told_are_the_same_place() -> None:
    assert cgroups.container_cgroup("cgroupfs", "/p", CONTAINER) == f"/p/{CONTAINER}"
    assert cgroups.runtime_path("cgroupfs", "/p", CONTAINER) == f"/p/{CONTAINER}"
    pod = "/a.slice/a-b.slice"
    assert cgroups.container_cgroup("systemd", pod, CONTAINER) == f"{pod}/ocishim-{CONTAINER}.scope"
    assert cgroups.runtime_path("systemd", pod, CONTAINER) == f"a-b.slice:ocishim:{CONTAINER}"


def test_crun_makes_no_cgroup_of_its_own_in_a_scope() -> None:
    systemd = cgroups.runtime_path("systemd", "/a.slice", CONTAINER)
    assert cgroups.runtime_annotations(systemd) == {"run.oci.systemd.subgroup": ""}
    assert cgroups.runtime_annotations(cgroups.runtime_path("cgroupfs", "/p", CONTAINER)) == {}


def test_monitors_are_in_a_leaf_of_the_pod_or_where_all_are() -> None:
    monitor = cgroups.monitor_cgroup
    assert monitor("cgroupfs", "/p", "pod", POD, CONTAINER) == f"/p/ocishim-monitor-{POD}"
    assert monitor("cgroupfs", "/p", "/system/monitors", POD, CONTAINER) == "/system/monitors"
    scope = f"ocishim-monitor-{CONTAINER}.scope"
    assert monitor("systemd", "/a.slice", "pod", POD, CONTAINER) == f"/a.slice/{scope}"
    assert monitor("systemd", "/a.slice", "x-y.slice", POD, CONTAINER) == f"/x.slice/x-y.slice/{scope}"


# --- configuration ---


def settings(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return config.load(file)


def test_the_defaults_are_cgroupfs_and_the_pods_own(tmp_path: Path) -> None:
    assert settings(tmp_path, "").cgroups_of("crun") == ("cgroupfs", "/ocishim", "pod")


def test_systemd_has_a_default_parent_of_its_own(tmp_path: Path) -> None:
    found = settings(tmp_path, '[containers]\ncgroup_driver = "systemd"').cgroups_of("crun")
    assert found == ("systemd", "ocishim.slice", "pod")


def test_a_runtime_may_have_another_driver_and_monitor_cgroup(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        '[containers]\ncgroup_parent = "/pods"\nmonitor_cgroup = "/monitors"\n'
        '[runtimes.other]\npath = "/x"\ncgroup_driver = "systemd"\nmonitor_cgroup = "mon.slice"',
    )
    assert found.cgroups_of("crun") == ("cgroupfs", "/pods", "/monitors")
    assert found.cgroups_of("other") == ("systemd", "ocishim.slice", "mon.slice")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[containers]\ncgroup_driver = "systemd"\ncgroup_parent = "/pods"', "cgroup_parent"),
        ('[containers]\ncgroup_parent = "pods.slice"', "cgroup_parent"),
        ('[containers]\nmonitor_cgroup = "mon.slice"', "monitor_cgroup"),
        ('[containers]\ncgroup_driver = "systemd"\nmonitor_cgroup = "/mon"', "monitor_cgroup"),
        ('[runtimes.crun]\npath = "/x"\ncgroup_driver = "systemd"\nmonitor_cgroup = "/mon"', "crun"),
        ('[containers]\nmonitor_cgroup = "/a/../../b"', r"\.\."),
        ('[containers]\nmonitor_cgroup = "//"', "root"),
        ('[containers]\nmonitor_cgroup = "/."', "root"),
        ('[containers]\ncgroup_parent = "/.."', r"\.\."),
    ],
)
def test_notations_that_do_not_fit_the_driver_are_told(tmp_path: Path, text: str, words: str) -> None:
    found = settings(tmp_path, text)
    with pytest.raises(InvalidArgument, match=words):
        found.cgroups_of("crun")


@pytest.mark.parametrize(
    "line",
    [
        'cgroup_driver = "cgroup"',
        'cgroup_parent = "pods"',
        'cgroup_parent = "a--b.slice"',
        'monitor_cgroup = "conmon"',
        'monitor_cgroup = ""',
        "pids_limit = -1",
        'pids_limit = "many"',
    ],
)
def test_values_that_are_none_are_refused_with_their_key(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidArgument, match=f"containers.{line.split(maxsplit=1)[0]}"):
        settings(tmp_path, f"[containers]\n{line}")
