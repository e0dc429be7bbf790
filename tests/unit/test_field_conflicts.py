"""Fields that are right each by itself and cannot be together."""

from __future__ import annotations

from typing import Any

import pytest
from test_bad_fields import HOST, TARGET, container, judge_container, judge_pod, pod, put

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument


def _no_logs() -> v1.PodSandboxConfig:
    config = pod()
    config.log_directory = ""
    return config


CONTEXT = "linux.security_context"
CONFLICTS: dict[str, tuple[v1.PodSandboxConfig, dict[str, Any], str]] = {
    "privileged in an unprivileged pod": (pod(), {f"{CONTEXT}.privileged": True}, f"{CONTEXT}.privileged"),
    "a group without a user": (
        pod(),
        {f"{CONTEXT}.run_as_user": None},
        f"{CONTEXT}.run_as_group",
    ),
    "a log without a directory": (_no_logs(), {}, "log_path"),
    "recursively read-only and writable": (
        pod(),
        {"mounts[0].recursive_read_only": True},
        "mounts[0].recursive_read_only",
    ),
    "recursively read-only and propagating": (
        pod(),
        {
            "mounts[0].readonly": True,
            "mounts[0].recursive_read_only": True,
            "mounts[0].propagation": v1.MountPropagation(1),
        },
        "mounts[0].recursive_read_only",
    ),
    "an image volume with a host path": (
        pod(),
        {"mounts[0].image.image": "i", "mounts[0].readonly": True},
        "mounts[0].host_path",
    ),
    "an image volume that may be written": (
        pod(),
        {"mounts[0].image.image": "i", "mounts[0].host_path": ""},
        "mounts[0].readonly",
    ),
    "a target without an id": (
        pod(),
        {f"{CONTEXT}.namespace_options.pid": TARGET},
        f"{CONTEXT}.namespace_options.pid",
    ),
    "a target that climbs": (
        pod(),
        {
            f"{CONTEXT}.namespace_options.pid": TARGET,
            f"{CONTEXT}.namespace_options.target_id": "../x",
        },
        f"{CONTEXT}.namespace_options.target_id",
    ),
    "a device by annotation that is none": (
        pod(),
        {"annotations": {"cdi.k8s.io/x": "vendor.com/gpu=0,nonsense"}},
        "annotations[cdi.k8s.io/x]",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_fields_that_contradict_each_other(name: str) -> None:
    sandbox, changes, path = CONFLICTS[name]
    config = container()
    for place, value in changes.items():
        if value is None:
            config.linux.security_context.run_as_user = v1.Int64Value()
            config.linux.security_context.run_as_username = ""
        else:
            put(config, place, value)
    if name == "a group without a user":
        context = v1.LinuxContainerSecurityContext(run_as_group=v1.Int64Value(value=7))
        config.linux.security_context = context
    with pytest.raises(InvalidArgument) as raised:
        judge_container(config, sandbox)
    assert str(raised.value).startswith(f"config.{path}"), raised.value


def test_the_same_host_port_is_not_mapped_twice() -> None:
    config = pod()
    config.port_mappings = [
        v1.PortMapping(container_port=1, host_port=80),
        v1.PortMapping(container_port=2, host_port=80),
    ]
    with pytest.raises(InvalidArgument, match=r"config\.port_mappings\[1\]\.host_port: 80"):
        judge_pod(config)
    config.port_mappings[1].protocol = v1.Protocol(1)
    judge_pod(config)


def test_sysctls_of_namespaces_that_are_the_hosts() -> None:
    config = pod()
    config.linux.security_context.namespace_options.network = HOST
    with pytest.raises(InvalidArgument, match=r"config\.linux\.sysctls\[net\.a\]"):
        judge_pod(config)


def test_windows_is_refused_by_both() -> None:
    windows_pod, windows_container = pod(), container()
    windows_pod.windows = v1.WindowsPodSandboxConfig(
        security_context=v1.WindowsSandboxSecurityContext(run_as_username="x")
    )
    windows_container.windows = v1.WindowsContainerConfig(resources=v1.WindowsContainerResources(cpu_shares=1))
    with pytest.raises(InvalidArgument, match=r"config\.windows: this node runs Linux"):
        judge_pod(windows_pod)
    with pytest.raises(InvalidArgument, match=r"config\.windows: this node runs Linux"):
        judge_container(windows_container)
