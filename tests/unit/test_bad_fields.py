"""Every field of a pod's and a container's configuration, with values that are refused before anything is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import schema

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.translate.validate import validate_container, validate_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ["", "a/b", "..", ".", "a\0b", "a\nb", "x" * 254]
PATHS = ["relative", "/a/../b", "/a\0b", "/a\nb", "/" + "x" * 256, "/x" * 2048]
TEXTS = ["a\0b", "a\nb"]
NOTES = {"key": "a\0b", "a\0b": "", "": "x"}
WORDS = ["", "a b", "a\nb", "a\0b", "a\tb", "x" * 254]
IDS = [-1, 2**31, 2**40]
ENUM = [99]
OWN, HOST, TARGET = (v1.NamespaceMode(number) for number in (1, 2, 3))
LABELS = ["a:b", "a b", "a\nb", "a\0b"]

POD: dict[str, list[Any]] = {
    "metadata.name": NAMES,
    "metadata.uid": NAMES,
    "metadata.namespace": NAMES,
    "hostname": WORDS[1:],
    "log_directory": PATHS,
    "dns_config.servers[0]": WORDS,
    "dns_config.searches[0]": WORDS,
    "dns_config.options[0]": WORDS,
    "port_mappings[0].protocol": ENUM,
    "port_mappings[0].container_port": [-1, 0, 65536],
    "port_mappings[0].host_port": [-1, 65536],
    "port_mappings[0].host_ip": ["localhost", "1.2.3", "::g", "1.2.3.4\n"],
    "labels": [{key: value} for key, value in NOTES.items()],
    "annotations": [{key: value} for key, value in NOTES.items()],
    "linux.security_context.namespace_options.network": [*ENUM, OWN, TARGET],
    "linux.security_context.namespace_options.pid": [*ENUM, TARGET],
    "linux.security_context.namespace_options.ipc": [*ENUM, OWN, TARGET],
    "linux.security_context.namespace_options.target_id": ["c"],
    "linux.security_context.selinux_options.user": LABELS,
    "linux.security_context.selinux_options.role": LABELS,
    "linux.security_context.selinux_options.type": LABELS,
    "linux.security_context.selinux_options.level": LABELS[1:],
    "linux.security_context.run_as_user": IDS,
    "linux.security_context.run_as_group": IDS,
    "linux.security_context.supplemental_groups[0]": IDS,
    "linux.security_context.supplemental_groups_policy": ENUM,
    "linux.security_context.seccomp.profile_type": ENUM,
    "linux.security_context.seccomp.localhost_ref": ["", "../up", "/a/../b", *TEXTS],
    "linux.security_context.apparmor.profile_type": ENUM,
    "linux.security_context.apparmor.localhost_ref": ["", *TEXTS],
    "linux.sysctls": [
        {"kernel.core_pattern": "|/bin/x"},
        {"net.ipv4.ip_forward": "1\n"},
        {"net.ipv4.ip_forward": "1+kernel.core_pattern=x"},
        {"net.../../kernel.core_pattern": "x"},
        {"net.ipv4\0": "1"},
        {"": "1"},
    ],
}
CONTAINER: dict[str, list[Any]] = {
    "metadata.name": NAMES,
    "image.image": ["", *TEXTS],
    "image.annotations": [{key: value} for key, value in NOTES.items()],
    "image.user_specified_image": TEXTS,
    "image.runtime_handler": TEXTS,
    "image.image_ref": TEXTS,
    "command[0]": ["a\0b", "x" * 131072],
    "args[0]": ["a\0b", "x" * 131072],
    "working_dir": PATHS,
    "envs[0].key": ["", "A=B", "A\0", "A\nB"],
    "envs[0].value": [b"a\0b", b"\xff", b"x" * 131072],
    "mounts[0].container_path": [*PATHS, "", "/", "//", "/."],
    "mounts[0].host_path": [*PATHS, ""],
    "mounts[0].propagation": ENUM,
    "mounts[0].image.image": TEXTS,
    "mounts[0].image_sub_path": ["x"],
    "mounts[0].mount_options[0]": ["suid", "exec", "", "no exec", "bind"],
    "devices[0].container_path": [*PATHS, "", "/"],
    "devices[0].host_path": [*PATHS, ""],
    "devices[0].permissions": ["x", "rwmx", "r w"],
    "labels": [{key: value} for key, value in NOTES.items()],
    "annotations": [{key: value} for key, value in NOTES.items()],
    "log_path": ["/abs", "../up", "a/../../b", *TEXTS, "x" * 256],
    "CDI_devices[0].name": ["", "gpu", "vendor/class", "vendor.com/gpu=", "vendor.com/gpu=a b", "=x", "a/b=c\n"],
    "stop_signal": ENUM,
    "linux.resources.cpu_period": [-1],
    "linux.resources.cpu_quota": [-2],
    "linux.resources.cpu_shares": [-1],
    "linux.resources.memory_limit_in_bytes": [-2],
    "linux.resources.memory_swap_limit_in_bytes": [-2],
    "linux.resources.oom_score_adj": [-1001, 1001],
    "linux.resources.cpuset_cpus": ["0;1", "a", "0\n"],
    "linux.resources.cpuset_mems": ["0;1", "a", "0\n"],
    "linux.resources.unified": [{"a/b": "1"}, {"": "1"}],
    "linux.security_context.capabilities.add_capabilities[0]": ["", "FLY", "CAP_", "NET_ADMIN\n"],
    "linux.security_context.capabilities.drop_capabilities[0]": ["", "FLY"],
    "linux.security_context.capabilities.add_ambient_capabilities[0]": ["", "FLY", "ALL"],
    "linux.security_context.namespace_options.network": [*ENUM, OWN, HOST, TARGET],
    "linux.security_context.namespace_options.pid": [*ENUM, TARGET],
    "linux.security_context.namespace_options.ipc": [*ENUM, OWN, HOST, TARGET],
    "linux.security_context.selinux_options.user": LABELS,
    "linux.security_context.selinux_options.role": LABELS,
    "linux.security_context.selinux_options.type": LABELS,
    "linux.security_context.selinux_options.level": LABELS[1:],
    "linux.security_context.run_as_user": IDS,
    "linux.security_context.run_as_group": IDS,
    "linux.security_context.run_as_username": TEXTS,
    "linux.security_context.supplemental_groups[0]": IDS,
    "linux.security_context.supplemental_groups_policy": ENUM,
    "linux.security_context.masked_paths[0]": ["", *PATHS],
    "linux.security_context.readonly_paths[0]": ["", *PATHS],
    "linux.security_context.seccomp.profile_type": ENUM,
    "linux.security_context.seccomp.localhost_ref": ["", "../up", "/a/../b", *TEXTS],
    "linux.security_context.apparmor.profile_type": ENUM,
    "linux.security_context.apparmor.localhost_ref": ["", *TEXTS],
}
OLD: dict[str, list[str]] = {
    "apparmor_profile": ["confined", "localhost/", "localhost/a\nb"],
    "seccomp_profile_path": ["default", "/absolute", "localhost/", "localhost/../x", "localhost/a\0b"],
}
"""Fields that newer ones have replaced: the newer must be absent for them to count."""

# Fields for which every value of their type means something.
FREE = {
    "PodSandboxConfig.metadata.attempt": "a number",
    "PodSandboxConfig.linux.security_context.readonly_rootfs": "a yes or no",
    "PodSandboxConfig.linux.security_context.privileged": "a yes or no",
    "PodSandboxConfig.linux.security_context.seccomp_profile_path": "counts only without seccomp: see OLD",
    "ContainerConfig.metadata.attempt": "a number",
    "ContainerConfig.mounts[].readonly": "a yes or no",
    "ContainerConfig.mounts[].selinux_relabel": "a yes or no; does nothing without SELinux",
    "ContainerConfig.mounts[].recursive_read_only": "in test_field_conflicts.py",
    "ContainerConfig.mounts[].image.annotations[]": "come back unaltered",
    "ContainerConfig.mounts[].image.user_specified_image": "comes back unaltered",
    "ContainerConfig.mounts[].image.runtime_handler": "not looked at",
    "ContainerConfig.mounts[].image.image_ref": "not looked at",
    "ContainerConfig.stdin": "a yes or no",
    "ContainerConfig.stdin_once": "a yes or no; kubelet sends it without stdin too",
    "ContainerConfig.tty": "a yes or no; what goes against it is asked for by Exec and Attach",
    "ContainerConfig.linux.security_context.privileged": "in test_field_conflicts.py",
    "ContainerConfig.linux.security_context.no_new_privs": "a yes or no",
    "ContainerConfig.linux.security_context.readonly_rootfs": "a yes or no",
    "ContainerConfig.linux.security_context.namespace_options.target_id": "in test_field_conflicts.py",
    "ContainerConfig.linux.security_context.apparmor_profile": "in OLD",
    "ContainerConfig.linux.security_context.seccomp_profile_path": "in OLD",
}
# Groups of fields that are judged together, with tests of their own.
ELSEWHERE = (".userns_options.", "Mappings[].", "linux.overhead.", ".windows.", "hugepage_limits[].")
ELSEWHERE_OF_PODS = ("PodSandboxConfig.linux.resources.", "PodSandboxConfig.linux.cgroup_parent")


def pod() -> v1.PodSandboxConfig:
    """A pod with something in every field that may be wrong."""
    context = v1.LinuxSandboxSecurityContext(
        namespace_options=v1.NamespaceOption(),
        selinux_options=v1.SeLinuxOption(user="u"),
        run_as_user=v1.Int64Value(value=1),
        run_as_group=v1.Int64Value(value=1),
        supplemental_groups=[1],
        seccomp=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="/p.json"),
        apparmor=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="p"),
    )
    return v1.PodSandboxConfig(
        metadata=v1.PodSandboxMetadata(name="n", namespace="ns", uid="u"),
        hostname="h",
        log_directory="/logs",
        dns_config=v1.DnsConfig(servers=["1.1.1.1"], searches=["a"], options=["b"]),
        port_mappings=[v1.PortMapping(container_port=80, host_port=80, host_ip="1.2.3.4")],
        labels={"a": "b"},
        annotations={"a": "b"},
        linux=v1.LinuxPodSandboxConfig(cgroup_parent="/p", security_context=context, sysctls={"net.a": "1"}),
    )


def container() -> v1.ContainerConfig:
    """Likewise."""
    context = v1.LinuxContainerSecurityContext(
        capabilities=v1.Capability(
            add_capabilities=["KILL"], drop_capabilities=["CHOWN"], add_ambient_capabilities=["KILL"]
        ),
        namespace_options=v1.NamespaceOption(),
        selinux_options=v1.SeLinuxOption(user="u"),
        run_as_user=v1.Int64Value(value=1),
        run_as_group=v1.Int64Value(value=1),
        supplemental_groups=[1],
        masked_paths=["/m"],
        readonly_paths=["/r"],
        seccomp=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="localhost/p.json"),
        apparmor=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="p"),
    )
    return v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name="c"),
        image=v1.ImageSpec(image="i", annotations={"a": "b"}),
        command=["c"],
        args=["a"],
        working_dir="/w",
        envs=[v1.KeyValue(key="K", value=b"v")],
        mounts=[v1.Mount(container_path="/c", host_path="/h", mount_options=["noexec"])],
        devices=[v1.Device(container_path="/dev/c", host_path="/dev/h", permissions="r")],
        labels={"a": "b"},
        annotations={"a": "b"},
        log_path="l",
        cdi_devices=[v1.CdiDevice(name="vendor.com/gpu=0")],
        linux=v1.LinuxContainerConfig(security_context=context, resources=v1.LinuxContainerResources(cpu_shares=2)),
    )


STEP = re.compile(r"(\w+)(?:\[(\d+)\])?")


def put(config: object, path: str, value: object) -> None:
    """Set a field, by its path in the schema's names."""
    *way, last = path.split(".")
    at: Any = config
    for step in way:
        at = _get(at, step)
    match = STEP.fullmatch(last)
    assert match
    name = _python_name(match[1])
    present = getattr(at, name)
    if match[2] is not None:
        present[int(match[2])] = value
    elif isinstance(present, v1.Int64Value):
        setattr(at, name, v1.Int64Value(value=value))  # type: ignore[arg-type] # a number
    else:
        setattr(at, name, value)


def _get(at: Any, step: str) -> Any:
    match = STEP.fullmatch(step)
    assert match
    found = getattr(at, _python_name(match[1]))
    return found if match[2] is None else found[int(match[2])]


def _python_name(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def judge_pod(config: v1.PodSandboxConfig) -> None:
    validate_sandbox(v1.PodSandboxConfig().parse(bytes(config)))


def judge_container(config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig | None = None) -> None:
    validate_container(v1.ContainerConfig().parse(bytes(config)), v1.PodSandboxConfig().parse(bytes(sandbox or pod())))


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(path, value, id=f"{path}={value!r:.30}") for path, values in table.items() for value in values]


def shown(value: object) -> str:
    """How an error shows the value, or the beginning of it."""
    if isinstance(value, dict):
        (key,) = value
        return repr(key)[1:-1] if key else ""
    if isinstance(value, v1.NamespaceMode):
        return value.name or str(int(value))
    if isinstance(value, bytes):
        return repr(value)[1:20].strip("'")
    return repr(value)[:20].strip("'")


def refused(judge: Callable[[], None], path: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as raised:
        judge()
    words = str(raised.value)
    assert words.startswith(f"config.{path}"), words
    assert shown(value) in words or "is required" in words, words
    assert len(words) < 1000


def test_what_is_right_is_accepted() -> None:
    judge_pod(pod())
    judge_container(container())


@pytest.mark.parametrize(("path", "value"), cases(POD))
def test_fields_of_pods(path: str, value: object) -> None:
    config = pod()
    put(config, path, value)
    refused(lambda: judge_pod(config), path, value)


@pytest.mark.parametrize(("path", "value"), cases(CONTAINER))
def test_fields_of_containers(path: str, value: object) -> None:
    config = container()
    put(config, path, value)
    refused(lambda: judge_container(config), path, value)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # the old fields are what is tested
@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in OLD.items() for value in values])
def test_fields_that_were_replaced(field: str, value: str) -> None:
    config = container()
    config.linux.security_context = v1.LinuxContainerSecurityContext(**{field: value})  # type: ignore[arg-type]
    refused(lambda: judge_container(config), f"linux.security_context.{field}", value)


def test_no_field_of_the_schema_is_forgotten() -> None:
    tried = {
        re.sub(r"\[\d+\]", "[]", f"{root}.{path}")
        for root, table in (("PodSandboxConfig", POD), ("ContainerConfig", CONTAINER))
        for path in table
    }
    left = {
        leaf.path
        for leaf in schema.all_leaves()
        if leaf.path.removesuffix("[]") not in tried
        and leaf.path not in tried | FREE.keys()
        and not any(part in leaf.path for part in ELSEWHERE)
        and not leaf.path.startswith(ELSEWHERE_OF_PODS)
    }
    assert not left
