"""What a container's spec is decided on beyond its image: devices, CDI, profiles, the operator's defaults.

All functions block on the disk and are meant for a worker thread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition
from ocishim.linux import device, files, host, labels
from ocishim.linux.shipped import shipped
from ocishim.translate import cdi, hooks, rlimits, seccomp, security
from ocishim.translate.annotations import passed_on
from ocishim.translate.facts import Defaults, GrantedDevice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ocishim.api.runtime import v1
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox
    from ocishim.runtime.oci import OciRuntime
    from ocishim.spec import runtime as spec
    from ocishim.translate.facts import ContainerInputs, DeviceFacts, MountSource
    from ocishim.translate.seccomp import SecurityContext

_RRO_KERNEL: Final = (5, 12)
_APPARMOR_PROFILES: Final = "/sys/kernel/security/apparmor/profiles"
_ZONES: Final = "/usr/share/zoneinfo"
_LOCALTIME: Final = "/etc/localtime"
_ZONE_LIMIT: Final = 1 << 20


def check_runtime(runtime: OciRuntime, config: v1.ContainerConfig) -> None:
    """Refuse what the runtime or the kernel cannot do, before anything is made. Raises FailedPrecondition."""
    for index, mount in enumerate(config.mounts):
        if not mount.recursive_read_only:
            continue
        release = host.kernel_release()
        problem = ""
        if seccomp.kernel_version(release) < _RRO_KERNEL:
            problem = f"kernel {release} is older than {_RRO_KERNEL[0]}.{_RRO_KERNEL[1]}"
        elif not runtime.abilities.recursive_readonly:
            problem = f"runtime {runtime.name} does not say that it knows the mount option rro"
        if problem:
            raise FailedPrecondition(f"RROUnsupported: config.mounts[{index}].recursive_read_only: {problem}")


def completed(node: Node, sandbox: Sandbox, runtime: OciRuntime, inputs: ContainerInputs) -> ContainerInputs:
    """The inputs with all that devices, profiles, the runtime's handler and the operator's defaults add."""
    config, chosen = inputs.config, runtime.settings
    context = config.linux.security_context
    withheld = chosen is not None and chosen.privileged_without_host_devices
    relabel(node, config, inputs.mounts)
    given = defaults(node)
    held = security.capabilities(context, node.host, root=inputs.identity.uid == 0, default=given.capabilities)
    allowed = chosen.allowed_annotations if chosen else ()
    return replace(
        inputs,
        devices=tuple(granted_devices(config)),
        host_devices=tuple(device.host_devices()) if context.privileged and not withheld else (),
        without_host_devices=withheld,
        seccomp=seccomp_filter(node, context, held.bounding, "config.linux.security_context"),
        apparmor=apparmor_profile(node, context),
        annotations=passed_on(allowed, sandbox.config.annotations, config.annotations),
        defaults=given,
        cdi=cdi_edits(node, config, runtime),
        in_vm=runtime.is_vm,
    )


def granted_devices(config: v1.ContainerConfig) -> list[GrantedDevice]:
    """The request's devices, looked up; a directory's one by one."""
    granted: list[GrantedDevice] = []
    for index, request in enumerate(config.devices):
        found = device.devices_at(request.host_path, f"config.devices[{index}].host_path")
        is_directory = os.path.isdir(request.host_path)
        for each in found:
            below = os.path.relpath(each.path, request.host_path)
            path = f"{request.container_path.rstrip('/')}/{below}" if is_directory else request.container_path
            granted.append(GrantedDevice(each, path, request.permissions))
    return granted


def cdi_edits(node: Node, config: v1.ContainerConfig, runtime: OciRuntime) -> cdi.CdiEdits:
    """What the CDI devices of the request ask for. Raises FailedPrecondition for one that no usable file describes."""
    names = cdi.requested(config)
    if not names:
        return cdi.CdiEdits()
    good, bad = node.data_files.cdi_files(node.settings.cdi.spec_dirs)
    edits = cdi.resolve(names, good, bad)
    nodes: dict[str, DeviceFacts] = {}
    for path in cdi.host_paths(edits):
        try:
            found = device.device(path)
        except OSError:
            continue  # its description may say all there is to say
        if found is not None:
            nodes[path] = found
    return cdi.CdiEdits(edits, nodes, moves_interfaces=runtime.abilities.net_devices)


def seccomp_filter(node: Node, context: SecurityContext, capabilities: Sequence[str], path: str) -> spec.Seccomp | None:
    """The filter that a security context means; `path` is the field's, for errors."""
    chosen = seccomp.choice(context, path)
    if chosen.kind == "unconfined":
        return None
    settings = node.settings.containers
    file = chosen.path
    if chosen.kind == "default":
        file = settings.seccomp_profile or shipped("seccomp.json")
    elif not file.startswith("/"):
        file = f"{settings.seccomp_localhost_root}/{file}"
    try:
        profile = node.data_files.seccomp_profile(file)
    except FailedPrecondition as error:
        raise FailedPrecondition(f"{path}.seccomp: {error}") from error
    return seccomp.seccomp_filter(
        profile,
        machine=node.host.architecture,
        capabilities=capabilities,
        kernel=seccomp.kernel_version(host.kernel_release()),
    )


def apparmor_profile(node: Node, context: v1.LinuxContainerSecurityContext) -> str | None:
    """The AppArmor profile that a container runs under. Raises FailedPrecondition where it is not loaded."""
    loaded = None
    if node.host.has_apparmor:
        try:
            with open(_APPARMOR_PROFILES, encoding="utf-8", errors="replace") as file:
                loaded = security.loaded_profiles(file.read())
        except OSError:
            loaded = None  # not ours to read: the runtime will find out
    return security.apparmor_profile(context, node.host, node.settings.containers.apparmor_profile, loaded)


def defaults(node: Node) -> Defaults:
    """What the operator gives every container."""
    settings = node.settings.containers
    named = settings.capabilities
    return Defaults(
        env=tuple(settings.env),
        mounts=tuple(settings.mounts),
        rlimits=tuple(rlimits.rlimits(settings.rlimits, node.host) or ()),
        capabilities=security.DEFAULT_CAPABILITIES
        if named is None
        else tuple(security.canonical_capability(name) for name in named),
    )


def relabel(node: Node, config: v1.ContainerConfig, found: Iterable[MountSource]) -> None:
    """Give the sources of mounts that ask for it the SELinux label of the container's files, where there are labels."""
    label = security.mount_label(security.selinux_label(config.linux.security_context, node.host))
    if label is None:
        return
    for index, each in enumerate(found):
        if each.request.selinux_relabel:
            labels.relabel(each.source, label, f"config.mounts[{index}].selinux_relabel")


def set_timezone(node: Node, config: v1.ContainerConfig, rootfs: str) -> None:
    """Write /etc/localtime in the container's writable layer, where the operator wants one and the request mounts none.

    A copy, since the image's own is often a link to a file that must stay what it is.
    """
    zone = node.settings.containers.timezone
    if not zone or any(mount.container_path.rstrip("/") == _LOCALTIME for mount in config.mounts):
        return
    source = os.path.realpath(_LOCALTIME) if zone == "local" else f"{_ZONES}/{zone}"
    try:
        content = files.read_beneath("/", source, limit=_ZONE_LIMIT)
    except OSError as error:
        raise FailedPrecondition(f"containers.timezone: {zone!r}: {source}: {error}") from error
    if content is None:
        raise FailedPrecondition(f"containers.timezone: {zone!r}: {source} is not there (apt-get install tzdata)")
    files.replace_beneath(rootfs, _LOCALTIME, content)


def with_hooks(
    node: Node, runtime: OciRuntime, sandbox: Sandbox, config: v1.ContainerConfig, made: spec.RuntimeSpec
) -> spec.RuntimeSpec:
    """The spec with the hooks that the runtime's handler is configured with."""
    directories = runtime.settings.hooks_dirs if runtime.settings else []
    if not directories:
        return made
    return hooks.with_hooks(
        made,
        node.data_files.hook_files(directories),
        {**sandbox.config.annotations, **config.annotations},
        has_bind_mounts=bool(config.mounts),
    )
