"""The CRI's first version: its requests in v1's words, v1's answers in its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1, v1alpha1
from ocishim.cri import v1alpha1 as translation
from ocishim.cri import v1alpha1_handlers
from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    import betterproto

POD, CONTAINER, NODE = v1.NamespaceMode.POD, v1.NamespaceMode.CONTAINER, v1.NamespaceMode.NODE
Kind = v1.SecurityProfileProfileType


def translated(rpc: str, request: betterproto.Message, pod: Mapping[str, str] | None = None) -> Any:
    """As it reaches the handler, by the bytes that were sent."""
    return translation.request(rpc, bytes(request), lambda _: pod or {})


def sandbox(**fields: Any) -> v1.PodSandboxConfig:
    found: v1.PodSandboxConfig = translated(
        "RunPodSandbox", v1alpha1.RunPodSandboxRequest(config=v1alpha1.PodSandboxConfig(**fields))
    ).config
    return v1.PodSandboxConfig().parse(bytes(found))


def container(pod: Mapping[str, str] | None = None, **context: Any) -> v1.LinuxContainerSecurityContext:
    config = v1alpha1.ContainerConfig(
        metadata=v1alpha1.ContainerMetadata(name="web"),
        linux=v1alpha1.LinuxContainerConfig(security_context=v1alpha1.LinuxContainerSecurityContext(**context)),
    )
    request = v1alpha1.CreateContainerRequest(pod_sandbox_id="p", config=config)
    found: v1.CreateContainerRequest = translated("CreateContainer", request, pod)
    return v1.ContainerConfig().parse(bytes(found.config)).linux.security_context


@pytest.mark.parametrize("host_network", [True, False])
@pytest.mark.parametrize("host_pid", [True, False])
@pytest.mark.parametrize("host_ipc", [True, False])
def test_the_bools_of_namespaces_are_modes_and_come_back(host_network: bool, host_pid: bool, host_ipc: bool) -> None:
    options = v1alpha1.NamespaceOption(host_network=host_network, host_pid=host_pid, host_ipc=host_ipc)
    context = v1alpha1.LinuxSandboxSecurityContext(namespace_options=options)
    found = sandbox(linux=v1alpha1.LinuxPodSandboxConfig(security_context=context))
    modes = found.linux.security_context.namespace_options
    assert (modes.network, modes.pid, modes.ipc) == (
        NODE if host_network else POD,
        NODE if host_pid else CONTAINER,
        NODE if host_ipc else POD,
    )
    status = v1.PodSandboxStatus(id="x", linux=v1.LinuxPodSandboxStatus(namespaces=v1.Namespace(options=modes)))
    answer = translation.response(v1.PodSandboxStatusResponse(status=status, timestamp=5), str)
    back = v1alpha1.PodSandboxStatusResponse().parse(bytes(answer)).status
    assert back.linux.namespaces.options == options
    assert back.id == "x"


def test_a_pod_that_says_nothing_of_namespaces_shares_no_processes() -> None:
    assert sandbox().linux.security_context.namespace_options.pid == CONTAINER
    assert container().namespace_options.pid == CONTAINER


def test_what_both_versions_have_is_unchanged() -> None:
    config = v1alpha1.PodSandboxConfig(
        metadata=v1alpha1.PodSandboxMetadata(name="n", uid="u", namespace="ns", attempt=3),
        hostname="h",
        log_directory="/l",
        dns_config=v1alpha1.DnsConfig(servers=["1.1.1.1"]),
        port_mappings=[
            v1alpha1.PortMapping(protocol=v1alpha1.Protocol(v1alpha1.Protocol.UDP), container_port=1, host_port=2)
        ],
        labels={"a": "b"},
        linux=v1alpha1.LinuxPodSandboxConfig(cgroup_parent="/c"),
    )
    found = translated("RunPodSandbox", v1alpha1.RunPodSandboxRequest(config=config)).config
    assert (found.metadata.name, found.metadata.attempt, found.hostname) == ("n", 3, "h")
    assert (found.dns_config.servers, found.labels, found.linux.cgroup_parent) == (["1.1.1.1"], {"a": "b"}, "/c")
    assert (found.port_mappings[0].protocol, found.port_mappings[0].host_port) == (v1.Protocol.UDP, 2)


def test_the_values_of_variables_are_text_then_and_bytes_now() -> None:
    config = v1alpha1.ContainerConfig(
        envs=[v1alpha1.KeyValue("A", "é")],
        linux=v1alpha1.LinuxContainerConfig(resources=v1alpha1.LinuxContainerResources(cpu_shares=7)),
    )
    found = translated("CreateContainer", v1alpha1.CreateContainerRequest(config=config)).config
    assert found.envs == [v1.KeyValue("A", "é".encode())]
    assert found.linux.resources.cpu_shares == 7


@pytest.mark.parametrize(
    ("text", "kind", "reference"),
    [
        ("runtime/default", Kind.RuntimeDefault, ""),
        ("docker/default", Kind.RuntimeDefault, ""),
        ("unconfined", Kind.Unconfined, ""),
        ("localhost//etc/p.json", Kind.Localhost, "/etc/p.json"),
        ("localhost/p.json", Kind.Localhost, "/var/lib/kubelet/seccomp/p.json"),
    ],
)
def test_seccomp_profiles_of_a_field_or_an_annotation(text: str, kind: int, reference: str) -> None:
    by_pod = {"seccomp.security.alpha.kubernetes.io/pod": text}
    by_name = {
        "container.seccomp.security.alpha.kubernetes.io/web": text,
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
    }
    contexts: list[Any] = [
        container(seccomp_profile_path=text),
        container(by_pod),
        container(by_name),
        container({"container.seccomp.security.alpha.kubernetes.io/web": "unconfined"}, seccomp_profile_path=text),
        sandbox(annotations=by_pod).linux.security_context,
    ]
    for context in contexts:
        assert (context.seccomp.profile_type, context.seccomp.localhost_ref) == (kind, reference)
        assert not context.seccomp_profile_path


def test_another_containers_profile_is_not_taken() -> None:
    pod = {
        "container.seccomp.security.alpha.kubernetes.io/other": "runtime/default",
        "container.apparmor.security.beta.kubernetes.io/other": "localhost/p",
    }
    assert not bytes(container(pod).seccomp)
    assert not bytes(container(pod).apparmor)


def test_apparmor_profiles_of_a_field_or_an_annotation() -> None:
    annotation = {"container.apparmor.security.beta.kubernetes.io/web": "localhost/mine"}
    for context in (container(apparmor_profile="localhost/mine"), container(annotation)):
        assert (context.apparmor.profile_type, context.apparmor.localhost_ref) == (Kind.Localhost, "mine")
        assert not context.apparmor_profile


@pytest.mark.parametrize("text", ["", "Unconfined", "localhost/", "/etc/p.json"])
def test_a_profile_that_is_none_is_refused_and_quoted(text: str) -> None:
    if not text:
        assert not bytes(container(seccomp_profile_path="").seccomp)
        return
    with pytest.raises(InvalidArgument, match=text):
        container(seccomp_profile_path=text)


def test_sysctls_of_annotations_join_those_of_the_field() -> None:
    annotations = {
        "security.alpha.kubernetes.io/sysctls": "net.a=1,kernel.shm_b=2",
        "security.alpha.kubernetes.io/unsafe-sysctls": "net.c=x=y",
    }
    found = sandbox(annotations=annotations, linux=v1alpha1.LinuxPodSandboxConfig(sysctls={"net.a": "9"}))
    assert found.linux.sysctls == {"net.a": "9", "kernel.shm_b": "2", "net.c": "x=y"}


def test_a_sysctl_without_a_value_is_refused_by_its_annotation() -> None:
    with pytest.raises(InvalidArgument, match=r"security\.alpha\.kubernetes\.io/sysctls.*'net\.a'"):
        sandbox(annotations={"security.alpha.kubernetes.io/sysctls": "net.a"})


def test_paths_are_hidden_that_clients_could_not_name_yet() -> None:
    assert "/proc/kcore" in container().masked_paths
    assert "/proc/sys" in container().readonly_paths
    assert not container(privileged=True).masked_paths


def test_filesystems_are_named_by_uuid() -> None:
    usage = v1.FilesystemUsage(timestamp=5, fs_id=v1.FilesystemIdentifier("/var/lib"), used_bytes=v1.UInt64Value(7))
    answer = v1.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])
    assert set(translation.mount_points(answer)) == {"/var/lib"}
    (found,) = (
        v1alpha1.ImageFsInfoResponse()
        .parse(bytes(translation.response(answer, lambda path: f"uuid of {path}")))
        .image_filesystems
    )
    assert (found.storage_id.uuid, found.used_bytes.value, found.timestamp) == ("uuid of /var/lib", 7, 5)
    stats = v1.ListContainerStatsResponse(stats=[v1.ContainerStats(writable_layer=usage), v1.ContainerStats()])
    listed = v1alpha1.ListContainerStatsResponse().parse(bytes(translation.response(stats, lambda _: "u")))
    assert [each.writable_layer.storage_id.uuid for each in listed.stats] == ["u", ""]


@pytest.mark.parametrize("rpc", [*v1alpha1_handlers.RUNTIME, *v1alpha1_handlers.IMAGE])
@given(content=st.binary(max_size=80))
def test_garbage_is_a_request_or_an_error_never_a_surprise(rpc: str, content: bytes) -> None:
    try:
        request = translation.request(rpc, content, lambda _: {})
    except (InvalidArgument, RuntimeError, ValueError):  # the codec's are made InvalidArgument by the wire
        return
    assert isinstance(request, getattr(v1, f"{rpc}Request"))


def test_every_rpc_of_the_first_version_is_led_somewhere() -> None:
    for name, rpcs in (("RuntimeService", v1alpha1_handlers.RUNTIME), ("ImageService", v1alpha1_handlers.IMAGE)):
        paths = getattr(v1alpha1, f"{name}Base")().__mapping__()
        assert set(paths) == {f"/runtime.{name}/{rpc}" for rpc in rpcs}


def test_who_does_not_speak_it_does_not_load_it() -> None:
    script = "import ocishim.daemon, sys; print([name for name in sys.modules if name.endswith('.v1alpha1')])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
