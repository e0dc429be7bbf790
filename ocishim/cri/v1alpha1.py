"""The CRI's first version in the words of v1, and answers the other way round: pure translation.

On the wire both are alike but for what is spelled out here: three bools instead of namespace modes, a filesystem's
UUID instead of its mount point, and security profiles and sysctls in pods' annotations. Fields that came later are
absent in requests; in answers they are unknown to the client, which passes over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import betterproto

from ocishim.api.runtime import v1, v1alpha1
from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

M = TypeVar("M", bound=betterproto.Message)

API_VERSION: Final = "v1alpha1"
SECCOMP_ROOT: Final = "/var/lib/kubelet/seccomp"
"""Where kubelet of the time had profiles that are named by a relative path."""
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
"""Clients could not ask for them yet and relied on the runtime to hide them, unless the container is privileged."""
READONLY_PATHS: Final = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

_POD_SECCOMP: Final = "seccomp.security.alpha.kubernetes.io/pod"
_CONTAINER_SECCOMP: Final = "container.seccomp.security.alpha.kubernetes.io/"
_CONTAINER_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_SYSCTLS: Final = ("security.alpha.kubernetes.io/sysctls", "security.alpha.kubernetes.io/unsafe-sysctls")
_KINDS: Final = v1.SecurityProfileProfileType
_LOCALHOST: Final = "localhost/"


def request(rpc: str, content: bytes, annotations_of: Callable[[str], Mapping[str, str]]) -> betterproto.Message:
    """A request of that RPC in v1's words; `annotations_of` has a pod's annotations by its id.

    Raises InvalidArgument for settings that cannot be read, and what the codec raises for bytes that are no message.
    """
    first: betterproto.Message = getattr(v1alpha1, f"{rpc}Request")().parse(content)
    if isinstance(first, v1alpha1.RunPodSandboxRequest):
        return v1.RunPodSandboxRequest(config=_sandbox_config(first.config))
    if isinstance(first, v1alpha1.CreateContainerRequest):
        return v1.CreateContainerRequest(
            pod_sandbox_id=first.pod_sandbox_id,
            config=_container_config(first.config, annotations_of(first.pod_sandbox_id)),
            sandbox_config=_sandbox_config(first.sandbox_config),
        )
    kind: type[betterproto.Message] = getattr(v1, f"{rpc}Request")
    return _recast(first, kind)


def response(answer: betterproto.Message, uuid_of: Callable[[str], str]) -> betterproto.Message:
    """An answer in the first version's words; `uuid_of` has the UUID of the filesystem that is mounted at a path."""
    match answer:
        case v1.VersionResponse():
            answer.runtime_api_version = API_VERSION
        case v1.PodSandboxStatusResponse():
            return _sandbox_status(answer)
        case v1.ImageFsInfoResponse():
            return v1alpha1.ImageFsInfoResponse([_usage(each, uuid_of) for each in answer.image_filesystems])
        case v1.ContainerStatsResponse():
            return v1alpha1.ContainerStatsResponse(_stats(answer.stats, uuid_of))
        case v1.ListContainerStatsResponse():
            return v1alpha1.ListContainerStatsResponse([_stats(each, uuid_of) for each in answer.stats])
    return answer


def _recast(message: betterproto.Message, kind: type[M]) -> M:
    """The same bytes as another message."""
    return kind().parse(bytes(message))


def _sandbox_config(first: v1alpha1.PodSandboxConfig) -> v1.PodSandboxConfig:
    config = _recast(first, v1.PodSandboxConfig)
    context = config.linux.security_context
    context.namespace_options = _namespaces(first.linux.security_context.namespace_options)
    annotated = first.linux.security_context.seccomp_profile_path or first.annotations.get(_POD_SECCOMP, "")
    _set_profiles(context, seccomp=annotated, apparmor="")
    config.linux = v1.LinuxPodSandboxConfig(
        cgroup_parent=config.linux.cgroup_parent,
        security_context=context,
        sysctls=_annotated_sysctls(first.annotations) | dict(first.linux.sysctls),
    )
    return config


def _container_config(first: v1alpha1.ContainerConfig, pod: Mapping[str, str]) -> v1.ContainerConfig:
    config = _recast(first, v1.ContainerConfig)
    theirs, name = first.linux.security_context, first.metadata.name
    context = config.linux.security_context
    context.namespace_options = _namespaces(theirs.namespace_options)
    _set_profiles(
        context,
        seccomp=theirs.seccomp_profile_path or pod.get(f"{_CONTAINER_SECCOMP}{name}") or pod.get(_POD_SECCOMP, ""),
        apparmor=theirs.apparmor_profile or pod.get(f"{_CONTAINER_APPARMOR}{name}", ""),
    )
    if not theirs.privileged:
        context.masked_paths, context.readonly_paths = list(MASKED_PATHS), list(READONLY_PATHS)
    config.linux = v1.LinuxContainerConfig(resources=config.linux.resources, security_context=context)
    return config


def _namespaces(first: v1alpha1.NamespaceOption) -> v1.NamespaceOption:
    """If not the host's, network and IPC are the pod's, and each container has PIDs of its own."""
    mode = v1.NamespaceMode
    return v1.NamespaceOption(
        network=mode(mode.NODE if first.host_network else mode.POD),
        pid=mode(mode.NODE if first.host_pid else mode.CONTAINER),
        ipc=mode(mode.NODE if first.host_ipc else mode.POD),
    )


def _set_profiles(
    context: v1.LinuxSandboxSecurityContext | v1.LinuxContainerSecurityContext, *, seccomp: str, apparmor: str
) -> None:
    """The profiles in today's fields, and nothing in those of then."""
    context.seccomp_profile_path = ""
    if isinstance(context, v1.LinuxContainerSecurityContext):
        context.apparmor_profile = ""
    if seccomp:
        context.seccomp = _profile("seccomp", seccomp, SECCOMP_ROOT)
    if apparmor:
        context.apparmor = _profile("AppArmor", apparmor, "")


def _profile(what: str, text: str, root: str) -> v1.SecurityProfile:
    """A profile by its text: runtime/default, docker/default, unconfined or localhost/REFERENCE."""
    if text in ("runtime/default", "docker/default"):
        return v1.SecurityProfile(profile_type=_KINDS(_KINDS.RuntimeDefault))
    if text == "unconfined":
        return v1.SecurityProfile(profile_type=_KINDS(_KINDS.Unconfined))
    reference = text.removeprefix(_LOCALHOST)
    if reference == text or not reference:
        raise InvalidArgument(
            f"{what} profile {text!r} is none of runtime/default, docker/default, unconfined, localhost/REFERENCE"
        )
    path = reference if not root or reference.startswith("/") else f"{root}/{reference}"
    return v1.SecurityProfile(profile_type=_KINDS(_KINDS.Localhost), localhost_ref=path)


def _annotated_sysctls(annotations: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for key in _SYSCTLS:
        for setting in filter(None, annotations.get(key, "").split(",")):
            name, equals, value = setting.partition("=")
            if not equals or not name:
                raise InvalidArgument(f"config.annotations[{key}]: {setting!r} is not NAME=VALUE")
            found[name] = value
    return found


def _sandbox_status(answer: v1.PodSandboxStatusResponse) -> v1alpha1.PodSandboxStatusResponse:
    options = answer.status.linux.namespaces.options
    node = v1.NamespaceMode.NODE
    status = _recast(answer.status, v1alpha1.PodSandboxStatus)
    status.linux = v1alpha1.LinuxPodSandboxStatus(
        v1alpha1.Namespace(
            v1alpha1.NamespaceOption(
                host_network=options.network == node, host_pid=options.pid == node, host_ipc=options.ipc == node
            )
        )
    )
    return v1alpha1.PodSandboxStatusResponse(status)


def _usage(usage: v1.FilesystemUsage, uuid_of: Callable[[str], str]) -> v1alpha1.FilesystemUsage:
    recast = _recast(usage, v1alpha1.FilesystemUsage)
    recast.storage_id = v1alpha1.StorageIdentifier(uuid_of(usage.fs_id.mountpoint))
    return recast


def _stats(stats: v1.ContainerStats, uuid_of: Callable[[str], str]) -> v1alpha1.ContainerStats:
    recast = _recast(stats, v1alpha1.ContainerStats)
    if betterproto.serialized_on_wire(stats.writable_layer):
        recast.writable_layer = _usage(stats.writable_layer, uuid_of)
    return recast


def mount_points(answer: betterproto.Message) -> Iterable[str]:
    """All mount points that `response` is going to ask about."""
    match answer:
        case v1.ImageFsInfoResponse():
            return [each.fs_id.mountpoint for each in answer.image_filesystems]
        case v1.ContainerStatsResponse():
            return [answer.stats.writable_layer.fs_id.mountpoint]
        case v1.ListContainerStatsResponse():
            return {each.writable_layer.fs_id.mountpoint for each in answer.stats}
    return []
