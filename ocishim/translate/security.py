"""What a container may do: capabilities, masked paths, devices, and the profiles of the kernel's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import FailedPrecondition
from ocishim.spec import runtime as spec
from ocishim.translate import fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ocishim.translate.facts import DeviceFacts, GrantedDevice, HostFacts

KERNEL_CAPABILITIES: Final = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
"""In the order of their numbers (capabilities(7))."""

DEFAULT_CAPABILITIES: Final = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
"""What the ecosystem gives a container that asks for nothing."""

_DEFAULT_DEVICE_RULES: Final = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
    ("c", 136, None, "rwm"),  # pseudo-terminals
    ("c", 5, 2, "rwm"),  # ptmx
)


def canonical_capability(given: str) -> str:
    """The kernel's name, from one with or without CAP_, in any case."""
    upper = given.upper()
    return upper if upper.startswith("CAP_") or upper == "ALL" else f"CAP_{upper}"


def check_capabilities(path: str, capabilities: v1.Capability) -> None:
    """Raises InvalidArgument for a name that no kernel knows."""
    for key in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        check_names(f"{path}.{key}", getattr(capabilities, key), allow_all=key != "add_ambient_capabilities")


def check_names(path: str, names: Iterable[str], *, allow_all: bool = False) -> None:
    """Raises InvalidArgument for the first that is no capability."""
    for index, given in enumerate(names):
        name = canonical_capability(given)
        if name not in KERNEL_CAPABILITIES and not (allow_all and name == "ALL"):
            raise fields.refuse(f"{path}[{index}]", given, "is no capability")


def capabilities(
    context: v1.LinuxContainerSecurityContext,
    host: HostFacts,
    *,
    root: bool,
    default: Iterable[str] = DEFAULT_CAPABILITIES,
) -> spec.Capabilities:
    """The five sets. What the server itself lacks is left out of ALL and of the defaults.

    Raises FailedPrecondition where such a capability is asked for by name: it cannot be had. Inheritable stays
    empty (CVE-2022-24769); a process that is not root has its capabilities through the ambient set only.
    """
    asked = context.capabilities
    if context.privileged:
        granted = set(host.capabilities)
    else:
        granted = _granted(asked.add_capabilities, asked.drop_capabilities, host, default)
    ambient = {canonical_capability(given) for given in asked.add_ambient_capabilities}
    _must_have(ambient, host)
    granted |= ambient
    held = _ordered(granted)
    usable = held if root else _ordered(ambient)
    return spec.Capabilities(
        bounding=held,
        effective=usable,
        permitted=usable,
        inheritable=_ordered(ambient),
        ambient=_ordered(ambient),
    )


def _granted(add: Sequence[str], drop: Sequence[str], host: HostFacts, default: Iterable[str]) -> set[str]:
    added = {canonical_capability(given) for given in add}
    dropped = {canonical_capability(given) for given in drop}
    _must_have(added - {"ALL"} - dropped, host)
    base = set(host.capabilities) if "ALL" in added else set(default) & host.capabilities
    if "ALL" in dropped:
        base = set()
    return (base | (added - {"ALL"})) - dropped


def _must_have(names: Iterable[str], host: HostFacts) -> None:
    missing = sorted(set(names) - host.capabilities)
    if missing:
        raise FailedPrecondition(
            f"config.linux.security_context.capabilities: the server lacks {', '.join(missing)} itself, so "
            "no container can have it"
        )


def _ordered(names: Iterable[str]) -> list[str]:
    present = set(names)
    return [name for name in KERNEL_CAPABILITIES if name in present]


def device_rules(devices: Iterable[GrantedDevice], *, privileged: bool) -> list[spec.DeviceRule]:
    """What the device cgroup lets through: all for a privileged container, else what every container has and
    the devices granted."""
    if privileged:
        return [spec.DeviceRule(allow=True, access="rwm")]
    rules = [spec.DeviceRule(allow=False, access="rwm")]
    rules += [
        spec.DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)
        for kind, major, minor, access in _DEFAULT_DEVICE_RULES
    ]
    rules += [
        spec.DeviceRule(
            allow=True,
            type=granted.device.type,
            major=granted.device.major,
            minor=granted.device.minor,
            access=granted.permissions or "rwm",
        )
        for granted in devices
    ]
    return rules


def device_nodes(
    devices: Iterable[GrantedDevice], host_devices: Iterable[DeviceFacts], *, privileged: bool
) -> list[spec.Device]:
    """Nodes to make in the container's /dev; a device named by the request wins over the host's."""
    nodes: dict[str, spec.Device] = {}
    if privileged:
        nodes = {device.path: _node(device, device.path) for device in host_devices}
    for granted in devices:
        nodes[granted.container_path] = _node(granted.device, granted.container_path)
    return list(nodes.values())


def _node(device: DeviceFacts, path: str) -> spec.Device:
    return spec.Device(
        type=device.type,
        path=path,
        major=device.major,
        minor=device.minor,
        file_mode=device.mode,
        uid=device.uid,
        gid=device.gid,
    )


def apparmor_profile(
    context: v1.LinuxContainerSecurityContext, host: HostFacts, default: str = "", loaded: Collection[str] | None = None
) -> str | None:
    """The profile's name; None where none is meant, or the kernel has no AppArmor and none was asked for by name.

    `default` is what RuntimeDefault means, `loaded` the kernel's profiles, None for not known. Raises
    FailedPrecondition for a profile that is asked for by name and is not there.
    """
    profile = context.apparmor
    name = ""
    wants_default = context.apparmor_profile == "runtime/default"
    if betterproto.serialized_on_wire(profile):
        wants_default = profile.profile_type == v1.SecurityProfileProfileType.RuntimeDefault
        if profile.profile_type == v1.SecurityProfileProfileType.Localhost:
            name = profile.localhost_ref.removeprefix("localhost/")
    elif context.apparmor_profile.startswith("localhost/"):
        name = context.apparmor_profile.removeprefix("localhost/")
    path = "config.linux.security_context.apparmor"
    if name and not host.has_apparmor:
        raise FailedPrecondition(f"{path}: profile {name!r}: the kernel has no AppArmor")
    if context.privileged:
        return None
    if wants_default and host.has_apparmor:
        name = default
    if name and loaded is not None and name not in loaded:
        raise FailedPrecondition(f"{path}: profile {name!r} is not loaded; load it with apparmor_parser -r")
    return name or None


def loaded_profiles(content: str) -> frozenset[str]:
    """Names in the kernel's list of AppArmor profiles: a line each, `NAME (MODE)`."""
    return frozenset(line.rpartition(" (")[0] for line in content.splitlines() if " (" in line)


def mount_label(label: str | None) -> str | None:
    """The SELinux label of a container's files, which goes with the label of its process."""
    if label is None:
        return None
    level = label.split(":", 3)[3]
    return f"system_u:object_r:container_file_t:{level}"


def selinux_label(
    context: v1.LinuxContainerSecurityContext | v1.LinuxSandboxSecurityContext, host: HostFacts
) -> str | None:
    """The process label, None where the kernel has no SELinux and none was asked for by name."""
    options = context.selinux_options
    parts = (options.user, options.role, options.type, options.level)
    if not any(parts):
        return None
    if not host.has_selinux:
        raise FailedPrecondition(
            f"config.linux.security_context.selinux_options: {':'.join(parts)!r}: the kernel has no SELinux"
        )
    defaults = ("system_u", "system_r", "spc_t" if context.privileged else "container_t", "s0")
    return ":".join(part or default for part, default in zip(parts, defaults, strict=True))
