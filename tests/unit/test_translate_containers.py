"""What a container's configuration means, and what of it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.translate import process, resources, seccomp
from ocishim.translate.container import container_spec
from ocishim.translate.facts import (
    ContainerInputs,
    DeviceFacts,
    GrantedDevice,
    HostFacts,
    Identity,
    ImageFacts,
    MountSource,
    SandboxFacts,
)
from ocishim.translate.identity import parse_group, parse_passwd, resolve_identity
from ocishim.translate.security import DEFAULT_CAPABILITIES, KERNEL_CAPABILITIES, capabilities
from ocishim.translate.validate import validate_container

GOLDEN = Path(__file__).parent / "golden"
RENEW = "OCISHIM_RENEW_GOLDEN"
HOST = HostFacts(
    architecture="x86_64",
    cgroup_v2=False,
    has_hugetlb=False,
    has_swap_accounting=True,
    has_apparmor=False,
    has_selinux=False,
    capabilities=frozenset(KERNEL_CAPABILITIES) - {"CAP_SYS_RESOURCE"},
    may_raise_limits=False,
    oom_score_adj=0,
)
IMAGE = ImageFacts(env=("PATH=/bin", "A=image", "BROKEN"), entrypoint=("/entry",), cmd=("arg",), working_dir="/work")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:A:/home/alice:/bin/sh\n1234:x:55:56::/odd:\n"
GROUP = b"root:x:0:\nstaff:x:50:alice,bob\nwheel:x:10:alice\n"
ROOT = Identity(0, 0, (0,), "/root")


def config(**fields: object) -> v1.ContainerConfig:
    named: dict[str, object] = {
        "metadata": v1.ContainerMetadata(name="c"),
        "image": v1.ImageSpec(image="busybox"),
    }
    made = v1.ContainerConfig(**(named | fields))  # type: ignore[arg-type] # each of its own type
    return v1.ContainerConfig().parse(bytes(made))


def secured(**fields: object) -> v1.ContainerConfig:
    context = v1.LinuxContainerSecurityContext(**fields)  # type: ignore[arg-type] # each of its own type
    return config(linux=v1.LinuxContainerConfig(security_context=context))


def context(**fields: object) -> v1.LinuxContainerSecurityContext:
    return secured(**fields).linux.security_context


def inputs(made: v1.ContainerConfig, **fields: object) -> ContainerInputs:
    sandbox = SandboxFacts(
        id="s" * 64,
        name="pod",
        namespace="ns",
        uid="uid",
        hostname="host",
        namespaces={"net": "/run/ns/net", "ipc": "/run/ns/ipc", "uts": "/run/ns/uts"},
        resolv_conf="/pod/resolv.conf",
        hostname_file="/pod/hostname",
        shm="/pod/shm",
    )
    given_facts: dict[str, object] = {
        "id": "c" * 64,
        "config": made,
        "sandbox": sandbox,
        "image": IMAGE,
        "image_name": "busybox",
        "identity": ROOT,
        "host": HOST,
        "rootfs": "/rootfs",
        "cgroup": "/pods/c",
    }
    return ContainerInputs(**(given_facts | fields))  # type: ignore[arg-type] # each of its own type


# Validation


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("config.metadata.name", config(metadata=v1.ContainerMetadata())),
        ("config.image.image", config(image=v1.ImageSpec())),
        ("config.command", config(command=["a\0b"])),
        ("config.working_dir", config(working_dir="relative")),
        ("config.working_dir", config(working_dir="/a/../../b")),
        ("config.envs", config(envs=[v1.KeyValue(key="A=B", value=b"")])),
        ("config.envs", config(envs=[v1.KeyValue(key="A", value=b"a\0b")])),
        ("config.log_path", config(log_path="../x")),
        ("config.log_path", config(log_path="a/../../x")),
        ("config.log_path", config(log_path="a\nb")),
        ("config.mounts[0].container_path", config(mounts=[v1.Mount(container_path="/", host_path="/x")])),
        ("config.mounts[0].host_path", config(mounts=[v1.Mount(container_path="/x", host_path="x")])),
        (
            "config.mounts[0].mount_options",
            config(mounts=[v1.Mount(container_path="/x", host_path="/x", mount_options=["suid"])]),
        ),
        (
            "config.mounts[0].recursive_read_only",
            config(mounts=[v1.Mount(container_path="/x", host_path="/x", recursive_read_only=True)]),
        ),
        (
            "config.devices[0].permissions",
            config(devices=[v1.Device(container_path="/d", host_path="/d", permissions="rx")]),
        ),
        ("config.linux.security_context.privileged", secured(privileged=True)),
        ("config.linux.security_context.run_as_group", secured(run_as_group=v1.Int64Value(value=3))),
        ("config.linux.security_context.run_as_user", secured(run_as_user=v1.Int64Value(value=2**31))),
        ("config.linux.security_context.run_as_user", secured(run_as_user=v1.Int64Value(value=-1))),
        ("config.linux.security_context.supplemental_groups", secured(supplemental_groups=[2**40])),
        (
            "config.linux.security_context.capabilities.add_capabilities",
            secured(capabilities=v1.Capability(add_capabilities=["CAP_FLY"])),
        ),
        ("config.linux.security_context.masked_paths", secured(masked_paths=["proc"])),
        (
            "config.linux.security_context.seccomp.localhost_ref",
            secured(seccomp=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2))),
        ),
        (
            "config.linux.resources.oom_score_adj",
            config(linux=v1.LinuxContainerConfig(resources=v1.LinuxContainerResources(oom_score_adj=2000))),
        ),
        (
            "config.linux.resources.cpuset_cpus",
            config(linux=v1.LinuxContainerConfig(resources=v1.LinuxContainerResources(cpuset_cpus="0;1"))),
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_field(field: str, made: v1.ContainerConfig) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_container(made, v1.PodSandboxConfig(log_directory="/logs"))
    assert str(raised.value).startswith(field)


def test_a_log_needs_the_pods_log_directory() -> None:
    with pytest.raises(InvalidArgument, match="log_directory"):
        validate_container(config(log_path="x"), v1.PodSandboxConfig())
    validate_container(config(log_path="x"), v1.PodSandboxConfig(log_directory="/logs"))


# Identity


@pytest.mark.parametrize(
    ("fields", "image_user", "expected"),
    [
        ({}, "", (0, 0, (0,), "/root")),
        ({}, "alice", (1000, 1001, (10, 50, 1001), "/home/alice")),
        ({}, "alice:staff", (1000, 50, (10, 50), "/home/alice")),
        ({}, "7:8", (7, 8, (8,), "/")),
        ({}, "1234", (55, 56, (56,), "/odd")),
        ({"run_as_user": v1.Int64Value(value=0)}, "alice", (0, 0, (0,), "/root")),
        ({"run_as_user": v1.Int64Value(value=1000)}, "root", (1000, 1001, (10, 50, 1001), "/home/alice")),
        (
            {"run_as_username": "alice", "run_as_group": v1.Int64Value(value=7)},
            "",
            (1000, 7, (7, 10, 50), "/home/alice"),
        ),
        (
            {"run_as_username": "alice", "supplemental_groups": [99], "supplemental_groups_policy": 1},
            "",
            (1000, 1001, (99, 1001), "/home/alice"),
        ),
    ],
)
def test_whom_a_process_runs_as(
    fields: dict[str, object], image_user: str, expected: tuple[int, int, tuple[int, ...], str]
) -> None:
    found = resolve_identity(context(**fields), image_user, PASSWD, GROUP)
    assert (found.uid, found.gid, found.additional_gids, found.home) == expected


@pytest.mark.parametrize("user", ["nobody-here", "4294967296", "2147483648", "-1", "alice:none", "0:99999999999"])
def test_users_that_cannot_be(user: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve_identity(context(), user, PASSWD, GROUP)


@given(st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20))
def test_no_passwd_file_makes_an_id_that_wraps(passwd: bytes, group: bytes, user: str) -> None:
    list(parse_group(group))
    assert all(0 <= entry.uid < 2**31 for entry in parse_passwd(passwd))
    try:
        found = resolve_identity(context(), user, passwd, group)
    except InvalidArgument:
        return
    assert 0 <= found.uid < 2**31
    assert 0 <= found.gid < 2**31


def test_an_overflowing_uid_in_passwd_is_no_entry() -> None:
    assert list(parse_passwd(b"evil:x:4294967296:0::/:\n")) == []


# Process


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ["/entry", "arg"]),
        ([], ["mine"], ["/entry", "mine"]),
        (["/my"], [], ["/my"]),
        (["/my"], ["a"], ["/my", "a"]),
    ],
)
def test_command_and_args(command: list[str], args: list[str], expected: list[str]) -> None:
    assert process.arguments(config(command=command, args=args), IMAGE) == expected


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        process.arguments(config(), ImageFacts())


def test_the_environment_has_one_value_a_name_and_the_request_wins() -> None:
    made = config(envs=[v1.KeyValue(key="A", value=b"request"), v1.KeyValue(key="B", value=b"\xff")], tty=True)
    found = process.environment(made, IMAGE, ROOT, "host")
    assert sorted(found) == ["A=request", "B=\udcff", "HOME=/root", "HOSTNAME=host", "PATH=/bin", "TERM=xterm"]


@pytest.mark.parametrize(
    ("asked", "image", "expected"),
    [
        (0, "", 15),
        (0, "SIGUSR1", 10),
        (0, "usr1", 10),
        (0, "9", 9),
        (0, "RTMIN+3", 37),
        (0, "SIGRTMAX-1", 63),
        (0, "nonsense", 15),
        (0, "99", 15),
        (10, "SIGUSR1", 2),
        (36, "", 35),
    ],
)
def test_stop_signals(asked: int, image: str, expected: int) -> None:
    assert process.stop_signal(config(stop_signal=v1.Signal(asked)), ImageFacts(stop_signal=image)) == expected


# Security


def names(*short: str) -> set[str]:
    return {f"CAP_{each}" for each in short}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (v1.Capability(), set(DEFAULT_CAPABILITIES)),
        (v1.Capability(add_capabilities=["net_admin"]), set(DEFAULT_CAPABILITIES) | names("NET_ADMIN")),
        (v1.Capability(drop_capabilities=["CAP_CHOWN"]), set(DEFAULT_CAPABILITIES) - names("CHOWN")),
        (v1.Capability(drop_capabilities=["ALL"], add_capabilities=["KILL"]), names("KILL")),
        (v1.Capability(add_capabilities=["ALL"]), set(HOST.capabilities)),
        (
            v1.Capability(add_capabilities=["ALL"], drop_capabilities=["SYS_ADMIN"]),
            set(HOST.capabilities) - names("SYS_ADMIN"),
        ),
    ],
)
def test_capabilities(asked: v1.Capability, expected: set[str]) -> None:
    found = capabilities(context(capabilities=asked), HOST, root=True)
    assert set(found.bounding) == set(found.effective) == set(found.permitted) == expected
    assert found.ambient == found.inheritable == []


def test_a_user_that_is_not_root_has_ambient_capabilities_only() -> None:
    asked = v1.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])
    found = capabilities(context(capabilities=asked), HOST, root=False)
    assert found.effective == found.ambient == ["CAP_NET_BIND_SERVICE"]
    assert set(DEFAULT_CAPABILITIES) <= set(found.bounding)


def test_a_capability_that_the_server_lacks_is_refused_by_name() -> None:
    with pytest.raises(FailedPrecondition, match="CAP_SYS_RESOURCE"):
        capabilities(context(capabilities=v1.Capability(add_capabilities=["SYS_RESOURCE"])), HOST, root=True)


@pytest.mark.parametrize(
    ("asked", "may_raise", "own", "expected"), [(-998, True, 0, -998), (-998, False, -5, None), (500, False, 0, 500)]
)
def test_the_oom_score_is_no_lower_than_the_server_may_set(
    asked: int, may_raise: bool, own: int, expected: int | None
) -> None:
    facts = HostFacts("x86_64", False, False, False, False, False, frozenset(), may_raise, own)
    assert resources.oom_score_adj(asked, facts) == expected


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # the old field is what is tested
@pytest.mark.parametrize(
    ("fields", "kind", "path"),
    [
        ({}, "unconfined", ""),
        ({"seccomp": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(1))}, "unconfined", ""),
        ({"seccomp_profile_path": "runtime/default"}, "default", ""),
        ({"seccomp_profile_path": "localhost//p.json"}, "localhost", "/p.json"),
        (
            {"seccomp": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="/p")},
            "localhost",
            "/p",
        ),
    ],
)
def test_which_seccomp_profile_is_meant(fields: dict[str, object], kind: str, path: str) -> None:
    chosen = seccomp.choice(context(**fields))
    assert (chosen.kind, chosen.path) == (kind, path)


def test_rules_of_a_profile_hold_for_machine_capabilities_and_kernel() -> None:
    rules = [
        {"names": ["always"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["others"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.0"}},
    ]
    content = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": rules}
    content["archMap"] = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]
    profile = seccomp.parse(json.dumps(content).encode(), "p")
    found = seccomp.seccomp_filter(profile, machine="x86_64", capabilities=["CAP_SYS_ADMIN"], kernel=(5, 10))
    assert [rule.names[0] for rule in found.syscalls] == ["always", "admin"]
    assert found.architectures == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_a_profile_that_is_none_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"/p\.json"):
        seccomp.parse(b'{"syscalls": 3}', "/p.json")


# The whole


def everything() -> ContainerInputs:
    made = config(
        command=["/run"],
        envs=[v1.KeyValue(key="K", value=b"v")],
        mounts=[
            v1.Mount(container_path="/data/deep", host_path="/h/deep", readonly=True, mount_options=["noexec"]),
            v1.Mount(container_path="/data", host_path="/h", propagation=v1.MountPropagation(2)),
            v1.Mount(container_path="/etc/resolv.conf", host_path="/mine"),
        ],
        linux=v1.LinuxContainerConfig(
            resources=v1.LinuxContainerResources(
                cpu_shares=512, cpu_quota=1000, memory_limit_in_bytes=1 << 20, oom_score_adj=500, cpuset_cpus="0"
            ),
            security_context=v1.LinuxContainerSecurityContext(
                readonly_rootfs=True,
                no_new_privs=True,
                masked_paths=["/proc/kcore"],
                readonly_paths=["/proc/sys"],
                namespace_options=v1.NamespaceOption(pid=v1.NamespaceMode(1)),
            ),
        ),
    )
    null = DeviceFacts("/dev/null", "c", 1, 3, 0o666, 0, 0)
    return inputs(
        made,
        identity=Identity(5, 6, (6, 7), "/home"),
        mounts=tuple(MountSource(request, request.host_path) for request in made.mounts),
        devices=(GrantedDevice(null, "/dev/mine", "rw"),),
    )


def privileged() -> ContainerInputs:
    kmsg = DeviceFacts("/dev/kmsg", "c", 1, 11, 0o644, 0, 0)
    return inputs(secured(privileged=True), host_devices=(kmsg,))


CASES = {
    "plain": inputs(config()),
    "everything": everything(),
    "privileged": privileged(),
    "host-pid": inputs(secured(namespace_options=v1.NamespaceOption(pid=v1.NamespaceMode(2)))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_runtime_spec_is_as_it_was(name: str) -> None:
    """A change of config.json is seen in review: OCISHIM_RENEW_GOLDEN=1 writes the files anew."""
    found = json.dumps(json.loads(container_spec(CASES[name]).to_json()), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get(RENEW):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()


def test_mounts_are_made_in_the_order_of_their_depth_and_the_requests_win() -> None:
    mounts = container_spec(everything()).mounts
    places = [mount.destination for mount in mounts]
    assert places.index("/data") < places.index("/data/deep")
    assert [mount.source for mount in mounts if mount.destination == "/etc/resolv.conf"] == ["/mine"]
    assert len(places) == len(set(places))


def test_a_privileged_container_has_no_masks_and_no_filter() -> None:
    spec = container_spec(privileged())
    assert spec.linux.masked_paths == spec.linux.readonly_paths == []
    assert spec.linux.seccomp is None
    assert [device.path for device in spec.linux.devices] == ["/dev/kmsg"]
    assert spec.process.capabilities is not None
    assert set(spec.process.capabilities.bounding) == HOST.capabilities
