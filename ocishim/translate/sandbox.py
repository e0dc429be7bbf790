"""A pod's own settings: host name, resolv.conf, sysctls, cgroup parent, namespaces, pause process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import betterproto

from ocishim.api.runtime import v1
from ocishim.spec import runtime as spec
from ocishim.translate import fields, userns
from ocishim.translate.annotations import CONTAINER_TYPE
from ocishim.translate.cgroups import runtime_annotations
from ocishim.translate.facts import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_HOSTNAME: Final = 64
_NOBODY: Final = 65535
_SYSCTL: Final = re.compile(r"^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([./][a-z0-9*]([-_a-z0-9]*[a-z0-9])?)+$", re.IGNORECASE)
_IPC_SYSCTLS: Final = (
    "kernel.shmmax",
    "kernel.shmall",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.sem",
)
_IPC_PREFIXES: Final = ("kernel.msg", "fs.mqueue.")


def uses_host(mode: v1.NamespaceMode) -> bool:
    """Whether a namespace option means the host's own."""
    return mode == v1.NamespaceMode.NODE


def pinned_kinds(config: v1.PodSandboxConfig) -> tuple[str, ...]:
    """Which namespaces are made for the pod; UTS is the host's when the network is."""
    options = config.linux.security_context.namespace_options
    kinds: tuple[str, ...] = () if userns.of_pod(config) is None else ("user",)
    if not uses_host(options.network):
        kinds = (*kinds, "net", "uts")
    return kinds if uses_host(options.ipc) else (*kinds, "ipc")


def shares_pid(config: v1.PodSandboxConfig) -> bool:
    """Whether the pod's containers see each other's processes.

    POD is the enum's zero: it counts only where the client sent namespace options at all. kubelet always
    does; a pod without any need not pay for a pause process.
    """
    options = config.linux.security_context.namespace_options
    return betterproto.serialized_on_wire(options) and options.pid == v1.NamespaceMode.POD


def hostname(config: v1.PodSandboxConfig, node: str) -> str:
    """The pod's host name: the node's with host network, else the request's, cut to what the kernel takes."""
    if uses_host(config.linux.security_context.namespace_options.network) or not config.hostname:
        return node
    return config.hostname.encode()[:LONGEST_HOSTNAME].decode("utf-8", "ignore").rstrip("-.")


def resolv_conf(dns: v1.DnsConfig) -> bytes | None:
    """resolv.conf(5) as the request has it; None where it says nothing and the host's is to be copied."""
    lines = [f"nameserver {server}" for server in dns.servers]
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(f"{line}\n" for line in lines).encode() if lines else None


def sysctls(config: v1.PodSandboxConfig, defaults: Mapping[str, str] | None = None) -> dict[str, str]:
    """The pod's sysctls in dotted form: the operator's defaults for the namespaces that it has, the request's over
    them. Raises InvalidArgument for one that is not the pod's own.

    Only what a namespace of the pod keeps to itself may be set, and no value may break out of its file
    (CVE-2022-0811 wrote kernel.core_pattern through a `+` in a value).
    """
    options = config.linux.security_context.namespace_options
    result: dict[str, str] = {}
    for name, value in (defaults or {}).items():
        if not uses_host(options.network if _dotted(name).startswith("net.") else options.ipc):
            result[_dotted(name)] = value
    for given, value in config.linux.sysctls.items():
        path = f"config.linux.sysctls[{given}]"
        if not _SYSCTL.match(given):
            raise fields.refuse(path, given, "is no name of a sysctl")
        if any(character in value for character in "\n\r\0+"):
            raise fields.refuse(path, value, "holds a line break, NUL or '+'")
        name = _dotted(given)
        if name.startswith("net."):
            if uses_host(options.network):
                raise fields.refuse(path, value, "cannot be set with the host's network")
        elif name in _IPC_SYSCTLS or name.startswith(_IPC_PREFIXES):
            if uses_host(options.ipc):
                raise fields.refuse(path, value, "cannot be set with the host's IPC namespace")
        else:
            raise fields.refuse(path, value, "is not a sysctl that a pod has to itself")
        result[name] = value
    return result


def _dotted(name: str) -> str:
    """`net/ipv4/conf/eth0.1/x` → `net.ipv4.conf.eth0/1.x`: the first separator decides (sysctl(8))."""
    first = next(character for character in name if character in "./")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


@dataclass(frozen=True, slots=True)
class PauseSettings:
    """What the pod's security context and its handler say of the pause process."""

    uid: int = _NOBODY
    gid: int = _NOBODY
    additional_gids: tuple[int, ...] = ()
    seccomp: spec.Seccomp | None = None
    selinux_label: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    hostname: str | None = None
    """Where the runtime makes a sandbox of its own, which the host's UTS namespace does not reach."""
    sysctls: Mapping[str, str] | None = None
    """Likewise."""


def pause_user(
    context: v1.LinuxSandboxSecurityContext, mappings: userns.IdMappings | None = None
) -> tuple[int, int, tuple[int, ...]]:
    """Whom the pause process runs as: the request's user and groups, else nobody.

    Raises InvalidArgument for one that the pod's user namespace does not have.
    """
    nobody = _NOBODY if mappings is None else min(_NOBODY, mappings.uids[0].length - 1)
    uid = context.run_as_user.value if betterproto.serialized_on_wire(context.run_as_user) else nobody
    gid = context.run_as_group.value if betterproto.serialized_on_wire(context.run_as_group) else nobody
    groups = tuple(sorted(set(context.supplemental_groups)))
    userns.check_identity(Identity(uid, gid, groups, "/"), mappings)
    return uid, gid, groups


def pause_spec(
    *,
    rootfs: str,
    pause: str,
    cgroup: str,
    namespaces: Mapping[str, str],
    settings: PauseSettings = PauseSettings(),
    mappings: userns.IdMappings | None = None,
) -> spec.RuntimeSpec:
    """The process that keeps a shared PID namespace: a static init in an otherwise empty root."""
    kinds = [spec.Namespace(type="pid"), spec.Namespace(type="mount")]
    kinds += [spec.Namespace(type=TYPES[kind], path=path) for kind, path in namespaces.items() if kind != "pid"]
    return spec.RuntimeSpec(
        process=spec.Process(
            user=spec.User(uid=settings.uid, gid=settings.gid, additional_gids=list(settings.additional_gids) or None),
            args=["/pause", "-P"],
            env=["PATH=/"],
            cwd="/",
            capabilities=spec.Capabilities(),
            no_new_privileges=True,
            selinux_label=settings.selinux_label,
        ),
        root=spec.Root(path=rootfs, readonly=True),
        hostname=settings.hostname,
        mounts=[
            spec.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "noexec", "size=64k"]),
            spec.Mount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
            spec.Mount(destination="/pause", type="bind", source=pause, options=["bind", "ro", "nosuid", "nodev"]),
        ],
        linux=spec.Linux(
            cgroups_path=cgroup,
            namespaces=kinds,
            resources=spec.Resources(devices=[spec.DeviceRule(allow=False, access="rwm")]),
            masked_paths=["/proc/kcore", "/proc/keys"],
            seccomp=settings.seccomp,
            sysctl=dict(settings.sysctls) if settings.sysctls else None,
            uid_mappings=userns.in_spec(mappings.uids) if mappings else None,
            gid_mappings=userns.in_spec(mappings.gids) if mappings else None,
        ),
        annotations={CONTAINER_TYPE: "sandbox", **settings.annotations, **runtime_annotations(cgroup)},
    )


TYPES: Final = {"user": "user", "net": "network", "ipc": "ipc", "uts": "uts", "pid": "pid"}
