"""Tables of request → spec: what handlers, security settings and the operator's defaults make of a container."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_translate_containers import HOST, config, context, inputs, secured

from ocishim.api.runtime import v1
from ocishim.config import MountSettings, RlimitSettings
from ocishim.errors import FailedPrecondition, InvalidArgument
from ocishim.runtime.abilities import Abilities, parse
from ocishim.spec import runtime as spec
from ocishim.translate import annotations as passing
from ocishim.translate import rlimits, sandbox, seccomp, security
from ocishim.translate.container import container_spec
from ocishim.translate.facts import Defaults, DeviceFacts, HostFacts, MountSource


def host(**fields: Any) -> HostFacts:
    return dataclasses.replace(HOST, **fields)


# Annotations


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ([], {}),
        (["a/x"], {"a/x": "pod"}),
        (["a/*"], {"a/x": "pod", "a/y": "container"}),
        (["*"], {"a/x": "pod", "a/y": "container", "b": "pod"}),
        (["a"], {}),
    ],
)
def test_which_annotations_reach_the_runtime(allowed: list[str], expected: dict[str, str]) -> None:
    pod, container = {"a/x": "pod", "a/y": "pod", "b": "pod"}, {"a/y": "container"}
    assert passing.passed_on(allowed, pod, container) == expected


def test_the_servers_own_annotations_cannot_be_forged() -> None:
    made = container_spec(inputs(config(), annotations={passing.CONTAINER_TYPE: "sandbox", "x": "y"}))
    assert (made.annotations[passing.CONTAINER_TYPE], made.annotations["x"]) == ("container", "y")


# Abilities


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"mountOptions": ["rro", "ro"]}', Abilities(recursive_readonly=True)),
        (b'{"ociVersionMax": "1.2.0"}', Abilities()),
        (b'{"linux": {"netDevices": {"enabled": true}}}', Abilities(net_devices=True)),
        (b'{"linux": null, "mountOptions": null, "new": [1]}', Abilities()),
        (b"crun version 1.8.1\ncommit: x\n", Abilities(recursive_readonly=True, user_namespaces=True)),
        (b"crun version 1.3\n", Abilities()),
        (b"runsc version release-2024\n", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_what_a_runtime_says_it_can_do(content: bytes, expected: Abilities | None) -> None:
    assert parse(content) == expected


@given(st.binary(max_size=200))
def test_garbage_is_no_ability(content: bytes) -> None:
    found = parse(content)
    assert found is None or not found.net_devices


# Limits and defaults


@pytest.mark.parametrize(
    ("soft", "hard", "own", "may_raise", "expected"),
    [
        (10, 20, 15, False, (10, 15)),
        (18, 20, 15, False, (15, 15)),
        (18, 20, 15, True, (18, 20)),
        (10, "unlimited", 2**64 - 1, False, (10, 2**64 - 1)),
        ("unlimited", "unlimited", 50, False, (50, 50)),
    ],
)
def test_limits_are_no_higher_than_the_server_may_set(
    soft: Any, hard: Any, own: int, *, may_raise: bool, expected: tuple[int, int]
) -> None:
    facts = host(may_raise_limits=may_raise, rlimits={"nofile": own})
    (found,) = rlimits.rlimits({"nofile": RlimitSettings(soft=soft, hard=hard)}, facts) or []
    assert found.type == "RLIMIT_NOFILE"
    assert (found.soft, found.hard) == expected


def test_no_limits_are_the_servers_own() -> None:
    assert rlimits.rlimits({}, HOST) is None
    assert container_spec(inputs(config())).process.rlimits is None


def test_the_operators_defaults_lose_against_image_and_request() -> None:
    given_defaults = Defaults(
        env=("A=operator", "B=operator", "C=operator"),
        mounts=(MountSettings(source="/s", destination="/d"), MountSettings(source="/s", destination="/mine")),
        capabilities=("CAP_KILL",),
    )
    made = config(
        envs=[v1.KeyValue(key="B", value=b"request")], mounts=[v1.Mount(container_path="/mine", host_path="/h")]
    )
    mounts = tuple(MountSource(each, each.host_path) for each in made.mounts)
    found = container_spec(inputs(made, defaults=given_defaults, mounts=mounts))
    assert {"A=image", "B=request", "C=operator"} <= set(found.process.env)
    sources = {mount.destination: mount.source for mount in found.mounts}
    assert (sources["/d"], sources["/mine"]) == ("/s", "/h")
    assert found.process.capabilities is not None
    assert found.process.capabilities.bounding == ["CAP_KILL"]


def test_nothing_is_mounted_over_a_whole_dev() -> None:
    made = config(mounts=[v1.Mount(container_path="/dev/", host_path="/dev")])
    found = container_spec(inputs(made, mounts=(MountSource(made.mounts[0], "/dev"),)))
    assert [mount.destination for mount in found.mounts if mount.destination.startswith("/dev")] == ["/dev", "/dev/shm"]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, ["rbind", "rprivate", "rw"]),
        ({"readonly": True}, ["rbind", "rprivate", "ro"]),
        ({"readonly": True, "recursive_read_only": True}, ["rbind", "rprivate", "ro", "rro"]),
        ({"propagation": v1.MountPropagation(1)}, ["rbind", "rslave", "rw"]),
        ({"propagation": v1.MountPropagation(2)}, ["rbind", "rshared", "rw"]),
        ({"mount_options": ["noexec", "nosuid"]}, ["rbind", "rprivate", "rw", "noexec", "nosuid"]),
    ],
)
def test_mounts(fields: dict[str, Any], options: list[str]) -> None:
    made = config(mounts=[v1.Mount(container_path="/v", host_path="/h", **fields)])
    found = container_spec(inputs(made, mounts=(MountSource(made.mounts[0], "/h"),)))
    assert next(mount.options for mount in found.mounts if mount.destination == "/v") == options


# Security


def test_a_privileged_container_can_be_without_the_hosts_devices() -> None:
    kmsg = DeviceFacts("/dev/kmsg", "c", 1, 11, 0o644, 0, 0)
    withheld = container_spec(inputs(secured(privileged=True), without_host_devices=True))
    assert withheld.linux.resources.devices[0] == spec.DeviceRule(allow=False, access="rwm")
    assert withheld.linux.devices == []
    given_all = container_spec(inputs(secured(privileged=True), host_devices=(kmsg,)))
    assert given_all.linux.resources.devices == [spec.DeviceRule(allow=True, access="rwm")]


APPARMOR = host(has_apparmor=True)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # the old field is what is tested
@pytest.mark.parametrize(
    ("fields", "facts", "expected"),
    [
        ({}, APPARMOR, None),
        ({"apparmor": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(0))}, APPARMOR, "default"),
        ({"apparmor": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(0))}, HOST, None),
        ({"apparmor": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(1))}, APPARMOR, None),
        (
            {"apparmor": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="mine")},
            APPARMOR,
            "mine",
        ),
        ({"apparmor_profile": "localhost/mine"}, APPARMOR, "mine"),
        ({"apparmor_profile": "runtime/default"}, APPARMOR, "default"),
        (
            {
                "apparmor_profile": "localhost/other",
                "apparmor": v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="mine"),
            },
            APPARMOR,
            "mine",
        ),
    ],
)
def test_which_apparmor_profile_is_meant(fields: dict[str, Any], facts: HostFacts, expected: str | None) -> None:
    loaded = security.loaded_profiles("mine (enforce)\ndefault (complain)\nother (enforce)\n")
    assert security.apparmor_profile(context(**fields), facts, "default", loaded) == expected


def test_a_profile_by_name_must_be_loaded() -> None:
    asked = context(apparmor=v1.SecurityProfile(profile_type=v1.SecurityProfileProfileType(2), localhost_ref="mine"))
    with pytest.raises(FailedPrecondition, match=r"'mine' is not loaded"):
        security.apparmor_profile(asked, APPARMOR, "", frozenset())
    with pytest.raises(FailedPrecondition, match="no AppArmor"):
        security.apparmor_profile(asked, HOST)


SELINUX = host(has_selinux=True)


@pytest.mark.parametrize(
    ("options", "privileged", "label", "files"),
    [
        (v1.SeLinuxOption(), False, None, None),
        (
            v1.SeLinuxOption(level="s0:c1,c2"),
            False,
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        (v1.SeLinuxOption(level="s0"), True, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0"),
        (v1.SeLinuxOption("u", "r", "t", "l"), False, "u:r:t:l", "system_u:object_r:container_file_t:l"),
    ],
)
def test_selinux_labels_of_processes_and_files(
    options: v1.SeLinuxOption, *, privileged: bool, label: str | None, files: str | None
) -> None:
    made = secured(selinux_options=options, privileged=privileged)
    found = container_spec(inputs(made, host=SELINUX))
    assert (found.process.selinux_label, found.linux.mount_label) == (label, files)


def test_selinux_is_refused_by_name_only() -> None:
    assert container_spec(inputs(secured())).process.selinux_label is None
    with pytest.raises(FailedPrecondition, match="no SELinux"):
        container_spec(inputs(secured(selinux_options=v1.SeLinuxOption(type="t"))))


def test_a_localhost_profile_may_lie_below_the_root() -> None:
    localhost = v1.SecurityProfileProfileType(2)
    profile = v1.SecurityProfile(profile_type=localhost, localhost_ref="localhost/team/p.json")
    assert seccomp.choice(context(seccomp=profile)) == seccomp.ProfileChoice("localhost", "team/p.json")
    climbing = v1.SecurityProfile(profile_type=localhost, localhost_ref="localhost/../p.json")
    with pytest.raises(InvalidArgument, match=r"seccomp\.localhost_ref"):
        seccomp.choice(context(seccomp=climbing))


# Pods


def test_the_operators_sysctls_are_for_pods_that_have_their_namespace() -> None:
    defaults = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "7"}
    made = v1.PodSandboxConfig(linux=v1.LinuxPodSandboxConfig(sysctls={"kernel/shmmax": "9"}))
    assert sandbox.sysctls(made, defaults) == {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "9"}
    host_network = v1.NamespaceOption(network=v1.NamespaceMode(2))
    made.linux.security_context = v1.LinuxSandboxSecurityContext(namespace_options=host_network)
    assert sandbox.sysctls(made, defaults) == {"kernel.shmmax": "9"}


def test_whom_the_pause_process_runs_as() -> None:
    assert sandbox.pause_user(v1.LinuxSandboxSecurityContext()) == (65535, 65535, ())
    asked = v1.LinuxSandboxSecurityContext(run_as_user=v1.Int64Value(value=0), supplemental_groups=[9, 8])
    parsed = v1.LinuxSandboxSecurityContext().parse(bytes(asked))
    assert sandbox.pause_user(parsed) == (0, 65535, (8, 9))


def test_a_vm_is_told_its_hostname_and_size() -> None:
    resources = v1.LinuxContainerResources(cpu_quota=5, memory_limit_in_bytes=6)
    made = v1.PodSandboxConfig(linux=v1.LinuxPodSandboxConfig(resources=resources))
    given_annotations = passing.of_sandbox(made, "id")
    assert given_annotations["io.kubernetes.cri.sandbox-memory"] == "6"
    assert given_annotations["io.kubernetes.cri.sandbox-cpu-quota"] == "5"
    assert "io.kubernetes.cri.sandbox-cpu-shares" not in given_annotations
    pause = sandbox.PauseSettings(hostname="h", sysctls={"net.a": "1"}, annotations=given_annotations)
    found = sandbox.pause_spec(rootfs="/r", pause="/p", cgroup="/c", namespaces={}, settings=pause)
    assert (found.hostname, found.linux.sysctl) == ("h", {"net.a": "1"})
    assert found.annotations[passing.CONTAINER_TYPE] == "sandbox"
    assert container_spec(inputs(config(), in_vm=True)).hostname == "host"
    assert container_spec(inputs(config())).hostname is None
