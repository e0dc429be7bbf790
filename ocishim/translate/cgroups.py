"""Where cgroups are and what they are called, in cgroupfs's notation (a path) and in systemd's (a slice).

Inside the server a cgroup is always its path below the cgroup root. systemd's unit of it is the path's last part,
since a slice's name spells where it is: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5)).
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument
from ocishim.translate import fields

if TYPE_CHECKING:
    from ocishim.config import CgroupDriverName

PREFIX: Final = "ocishim"
"""What our own cgroups and units begin with."""
POD: Final = "pod"
"""The monitor cgroup that means the pod's own."""
_SLICE: Final = ".slice"
_LONGEST_UNIT: Final = 255
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 3000
"""Characters, so that a container's cgroup below it stays within what paths may have (PATH_MAX)."""
_UNIT_PART: Final = re.compile(r"[A-Za-z0-9:_.\\]+")


def is_slice(value: str) -> bool:
    """Whether a cgroup is written as a systemd slice, alone or at the end of its path."""
    return value.endswith(_SLICE)


def expand_slice(name: str) -> str:
    """The path of a slice: `a-b.slice` → `/a.slice/a-b.slice`. Raises ValueError where it names none."""
    stem = name.removesuffix(_SLICE)
    if stem == name or len(name) > _LONGEST_UNIT:
        raise ValueError("is no name of a slice")
    if stem == "-":
        raise ValueError("is the root slice, which holds all other units")
    parts = stem.split("-")
    if not all(_UNIT_PART.fullmatch(part) for part in parts):
        raise ValueError("is no name of a slice: '-' separates its parents, and none may be empty")
    return "".join(f"/{'-'.join(parts[: number + 1])}{_SLICE}" for number in range(len(parts)))


def normal_path(path: str) -> str:
    """An absolute path without empty and `.` parts."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def pod_cgroup(asked: str, driver: CgroupDriverName, default: str, pod_id: str) -> str:
    """The path of the cgroup that a pod's containers go below; below `default` where the request names none.

    `default` is in the driver's notation. kubelet names a slice by its whole path, crictl's users by its name.
    Raises InvalidArgument for a notation that is not the driver's.
    """
    if not asked:
        if driver == "cgroupfs":
            return normal_path(f"{default}/{pod_id}")
        return expand_slice(f"{posixpath.basename(default).removesuffix(_SLICE)}-{pod_id}{_SLICE}")
    path = "config.linux.cgroup_parent"
    fields.text(path, asked)
    if driver == "systemd":
        return _slice_path(path, asked)
    if is_slice(asked):
        raise InvalidArgument(
            f"{path}: {asked!r} is a systemd slice, and the cgroup driver is cgroupfs; set kubelet's cgroupDriver "
            'to cgroupfs, or `cgroup_driver = "systemd"` in the [containers] table of this server\'s configuration'
        )
    fields.absolute(path, asked)
    found = normal_path(asked)
    if found == "/":
        raise fields.refuse(path, asked, "is the root of all cgroups")
    if len(found) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in found.split("/")):
        raise fields.refuse(path, f"{asked[:40]}…", f"has a part longer than {_LONGEST_NAME} bytes, or too many")
    return found


def _slice_path(path: str, asked: str) -> str:
    name = posixpath.basename(asked)
    if not is_slice(name):
        raise InvalidArgument(
            f"{path}: {asked!r} is no systemd slice, and the cgroup driver is systemd; set kubelet's cgroupDriver "
            'to systemd, or `cgroup_driver = "cgroupfs"` in the [containers] table of this server\'s configuration'
        )
    try:
        expanded = expand_slice(name)
    except ValueError as error:
        raise fields.refuse(path, asked, str(error)) from error
    if name != asked and normal_path(asked) != expanded:
        raise fields.refuse(path, asked, f"is not where {name} is: systemd has it at {expanded}")
    return expanded


def container_cgroup(driver: CgroupDriverName, pod: str, container_id: str) -> str:
    """The path of a container's cgroup in its pod's."""
    return f"{pod}/{container_id}" if driver == "cgroupfs" else f"{pod}/{PREFIX}-{container_id}.scope"


def runtime_path(driver: CgroupDriverName, pod: str, container_id: str) -> str:
    """The same cgroup as config.json's linux.cgroupsPath names it: for systemd as slice:prefix:name."""
    if driver == "cgroupfs":
        return container_cgroup(driver, pod, container_id)
    return f"{posixpath.basename(pod)}:{PREFIX}:{container_id}"


def runtime_annotations(path: str) -> dict[str, str]:
    """What a runtime must be told beside `path`, which `runtime_path` made.

    In systemd's scope crun would make another cgroup on v2, and limit that: then the scope's limits, which can be
    changed in place, would not be all.
    """
    return {} if path.startswith("/") else {"run.oci.systemd.subgroup": ""}


def monitor_cgroup(driver: CgroupDriverName, pod: str, chosen: str, sandbox_id: str, container_id: str) -> str:
    """The path of the cgroup that a container's monitor is accounted to.

    In a pod it is a leaf beside the containers': cgroup v2 lets no process be where children are limited. With
    systemd it is a scope of its own, which goes when the monitor ends.
    """
    if driver == "systemd":
        parent = pod if chosen == POD else expand_slice(chosen)
        return f"{parent}/{PREFIX}-monitor-{container_id}.scope"
    return monitor_leaf(pod, sandbox_id) if chosen == POD else normal_path(chosen)


def monitor_leaf(pod: str, sandbox_id: str) -> str:
    """The cgroup of a pod's monitors, with the cgroupfs driver; named after the pod, since pods may share a parent."""
    return f"{pod}/{PREFIX}-monitor-{sandbox_id}"
