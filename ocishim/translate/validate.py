"""Requests are judged here before anything is made: INVALID_ARGUMENT with the field and its value."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.translate import cdi, fields, resource_checks, seccomp, security, userns
from ocishim.translate.sandbox import sysctls

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = v1.NamespaceMode.__members__
_MOUNT_OPTIONS = ("noexec", "nodev", "nosuid")


def validate_sandbox(config: v1.PodSandboxConfig) -> None:
    """Judge a RunPodSandbox request's config."""
    metadata = config.metadata
    for key in ("name", "namespace", "uid"):
        fields.name(f"config.metadata.{key}", getattr(metadata, key))
    if config.hostname:
        fields.word("config.hostname", config.hostname)
    if config.log_directory:
        fields.absolute("config.log_directory", config.log_directory)
    _ports(config.port_mappings)
    for key in ("servers", "searches", "options"):
        for index, value in enumerate(getattr(config.dns_config, key)):
            fields.word(f"config.dns_config.{key}[{index}]", value)
    fields.notes("config.labels", config.labels)
    fields.notes("config.annotations", config.annotations)
    _not_windows("config.windows", config.windows)
    context = config.linux.security_context
    _namespaces("config.linux.security_context.namespace_options", context.namespace_options, pod=True)
    _user("config.linux.security_context", context)
    _profiles("config.linux.security_context", context)
    sysctls(config)
    for key in ("resources", "overhead"):
        _resources(f"config.linux.{key}", getattr(config.linux, key))


def _not_windows(path: str, value: v1.WindowsPodSandboxConfig | v1.WindowsContainerConfig) -> None:
    if betterproto.serialized_on_wire(value):
        raise InvalidArgument(f"{path}: this node runs Linux containers only")


def _ports(mappings: Sequence[v1.PortMapping]) -> None:
    taken: dict[tuple[int, str, int], int] = {}
    for index, mapping in enumerate(mappings):
        path = f"config.port_mappings[{index}]"
        _port(path, mapping)
        if not mapping.host_port:
            continue
        place = (int(mapping.protocol), mapping.host_ip, mapping.host_port)
        if place in taken:
            raise fields.refuse(
                f"{path}.host_port", mapping.host_port, f"is taken by config.port_mappings[{taken[place]}]"
            )
        taken[place] = index


def _port(path: str, mapping: v1.PortMapping) -> None:
    fields.known(f"{path}.protocol", mapping.protocol, v1.Protocol.__members__)
    fields.bounded(f"{path}.host_port", mapping.host_port, 0, 65535)
    fields.bounded(f"{path}.container_port", mapping.container_port, 1 if mapping.host_port else 0, 65535)
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise fields.refuse(f"{path}.host_ip", mapping.host_ip, "is no IP address") from None


def _namespaces(path: str, options: v1.NamespaceOption, *, pod: bool) -> None:
    for kind in ("network", "pid", "ipc"):
        fields.known(f"{path}.{kind}", getattr(options, kind), _MODES)
    if options.network not in (v1.NamespaceMode.POD, v1.NamespaceMode.NODE):
        raise fields.refuse(f"{path}.network", options.network.name, "is not POD or NODE")
    if options.ipc not in (v1.NamespaceMode.POD, v1.NamespaceMode.NODE):
        raise fields.refuse(f"{path}.ipc", options.ipc.name, "is not POD or NODE")
    if options.pid == v1.NamespaceMode.TARGET and (pod or not options.target_id):
        raise fields.refuse(f"{path}.pid", "TARGET", "is for containers, and needs target_id")
    if pod:
        if options.target_id:
            raise fields.refuse(f"{path}.target_id", options.target_id, "is for containers only")
        userns.check_pod(path, options)


def _user(path: str, context: v1.LinuxSandboxSecurityContext | v1.LinuxContainerSecurityContext) -> None:
    has_user = betterproto.serialized_on_wire(context.run_as_user)
    has_group = betterproto.serialized_on_wire(context.run_as_group)
    user_name = context.run_as_username if isinstance(context, v1.LinuxContainerSecurityContext) else ""
    fields.bounded(f"{path}.run_as_user", context.run_as_user.value, 0, fields.LARGEST_ID)
    fields.bounded(f"{path}.run_as_group", context.run_as_group.value, 0, fields.LARGEST_ID)
    for index, group in enumerate(context.supplemental_groups):
        fields.bounded(f"{path}.supplemental_groups[{index}]", group, 0, fields.LARGEST_ID)
    fields.known(
        f"{path}.supplemental_groups_policy",
        context.supplemental_groups_policy,
        v1.SupplementalGroupsPolicy.__members__,
    )
    if has_group and not has_user and not user_name:
        raise fields.refuse(f"{path}.run_as_group", context.run_as_group.value, "needs run_as_user")


def _profiles(path: str, context: v1.LinuxSandboxSecurityContext | v1.LinuxContainerSecurityContext) -> None:
    for key in ("seccomp", "apparmor"):
        profile: v1.SecurityProfile = getattr(context, key)
        fields.known(f"{path}.{key}.profile_type", profile.profile_type, v1.SecurityProfileProfileType.__members__)
        if profile.profile_type == v1.SecurityProfileProfileType.Localhost and not profile.localhost_ref:
            raise InvalidArgument(f"{path}.{key}.localhost_ref is required with profile_type Localhost")
        fields.text(f"{path}.{key}.localhost_ref", profile.localhost_ref)
    seccomp.choice(context, path)
    if isinstance(context, v1.LinuxContainerSecurityContext):
        _old_apparmor(f"{path}.apparmor_profile", context.apparmor_profile)
    options = context.selinux_options
    for part in ("user", "role", "type", "level"):
        value: str = getattr(options, part)
        if value:
            fields.word(f"{path}.selinux_options.{part}", value)
            if ":" in value and part != "level":
                raise fields.refuse(f"{path}.selinux_options.{part}", value, "holds a colon")


def _old_apparmor(path: str, value: str) -> None:
    if value in ("", "runtime/default", "unconfined"):
        return
    fields.text(path, value)
    if not value.removeprefix("localhost/") or not value.startswith("localhost/"):
        raise fields.refuse(path, value, "is none of runtime/default, unconfined, localhost/NAME")


def validate_container(config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig) -> None:
    """Judge a CreateContainer request's config against the pod it is for."""
    fields.name("config.metadata.name", config.metadata.name)
    _image(config.image)
    for key in ("command", "args"):
        for index, value in enumerate(getattr(config, key)):
            fields.argument(f"config.{key}[{index}]", value)
    if config.working_dir:
        fields.absolute("config.working_dir", config.working_dir)
    for index, variable in enumerate(config.envs):
        _variable(f"config.envs[{index}]", variable)
    if config.log_path:
        fields.beneath("config.log_path", config.log_path)
        if not sandbox.log_directory:
            raise fields.refuse("config.log_path", config.log_path, "needs the pod's log_directory")
    fields.known("config.stop_signal", config.stop_signal, v1.Signal.__members__)
    fields.notes("config.labels", config.labels)
    fields.notes("config.annotations", config.annotations)
    _mounts(config.mounts, sandbox.linux.security_context.namespace_options)
    for index, device in enumerate(config.devices):
        _device(f"config.devices[{index}]", device)
    cdi.requested(config)
    _not_windows("config.windows", config.windows)
    _container_security(config, sandbox)
    _resources("config.linux.resources", config.linux.resources)


def _image(image: v1.ImageSpec) -> None:
    if not image.image:
        raise InvalidArgument("config.image.image is required")
    for key in ("image", "user_specified_image", "runtime_handler", "image_ref"):
        fields.text(f"config.image.{key}", getattr(image, key))
    fields.notes("config.image.annotations", image.annotations)


def _variable(path: str, variable: v1.KeyValue) -> None:
    fields.text(f"{path}.key", variable.key)
    if not variable.key or "=" in variable.key:
        raise fields.refuse(f"{path}.key", variable.key, "is no name of an environment variable")
    try:
        value = variable.value.decode("utf-8")
    except UnicodeDecodeError:
        raise fields.refuse(
            f"{path}.value", variable.value, "is not UTF-8, and config.json can hold nothing else"
        ) from None
    fields.argument(f"{path}.value", value)
    fields.argument(path, f"{variable.key}={value}")


def _mounts(mounts: Sequence[v1.Mount], pod: v1.NamespaceOption) -> None:
    for index, mount in enumerate(mounts):
        path = f"config.mounts[{index}]"
        fields.absolute(f"{path}.container_path", mount.container_path)
        if mount.container_path.strip("/") in ("", "."):
            raise fields.refuse(f"{path}.container_path", mount.container_path, "is the root itself")
        if mount.image.image:
            _image_volume(path, mount)
        else:
            fields.absolute(f"{path}.host_path", mount.host_path)
        fields.known(f"{path}.propagation", mount.propagation, v1.MountPropagation.__members__)
        if mount.recursive_read_only and (
            not mount.readonly or mount.propagation != v1.MountPropagation.PROPAGATION_PRIVATE
        ):
            raise InvalidArgument(f"{path}.recursive_read_only: RROUnsupported: needs readonly and PROPAGATION_PRIVATE")
        if mount.image_sub_path and not mount.image.image:
            raise fields.refuse(f"{path}.image_sub_path", mount.image_sub_path, "is for image volumes only")
        for position, option in enumerate(mount.mount_options):
            if option not in _MOUNT_OPTIONS:
                raise fields.refuse(
                    f"{path}.mount_options[{position}]", option, f"is none of {', '.join(_MOUNT_OPTIONS)}"
                )
        userns.check_mount(path, mount, pod)


def _image_volume(path: str, mount: v1.Mount) -> None:
    fields.text(f"{path}.image.image", mount.image.image)
    fields.text(f"{path}.image_sub_path", mount.image_sub_path)
    problem = (
        "readonly: must be set"
        if not mount.readonly
        else "host_path: must be empty"
        if mount.host_path
        else "propagation: must be PROPAGATION_PRIVATE"
        if mount.propagation != v1.MountPropagation.PROPAGATION_PRIVATE
        else ""
    )
    if problem:
        raise InvalidArgument(f"{path}.{problem} for an image volume (ImageVolumeMountFailed)")


def _device(path: str, device: v1.Device) -> None:
    fields.absolute(f"{path}.host_path", device.host_path)
    fields.absolute(f"{path}.container_path", device.container_path)
    if device.container_path.strip("/") in ("", "."):
        raise fields.refuse(f"{path}.container_path", device.container_path, "is the root itself")
    if set(device.permissions) - set("rwm"):
        raise fields.refuse(f"{path}.permissions", device.permissions, "may hold r, w and m only")


def _container_security(config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig) -> None:
    path = "config.linux.security_context"
    context = config.linux.security_context
    _namespaces(f"{path}.namespace_options", context.namespace_options, pod=False)
    pod = sandbox.linux.security_context.namespace_options
    userns.check_container(f"{path}.namespace_options", context.namespace_options, pod)
    _agrees(f"{path}.namespace_options", context.namespace_options, pod)
    fields.text(f"{path}.run_as_username", context.run_as_username)
    _user(path, context)
    _profiles(path, context)
    if context.privileged and not sandbox.linux.security_context.privileged:
        raise InvalidArgument(f"{path}.privileged: the pod's own security context is not privileged")
    for key in ("masked_paths", "readonly_paths"):
        for index, value in enumerate(getattr(context, key)):
            fields.absolute(f"{path}.{key}[{index}]", value)
    security.check_capabilities(f"{path}.capabilities", context.capabilities)


def _agrees(path: str, asked: v1.NamespaceOption, pod: v1.NamespaceOption) -> None:
    """Network and IPC are the pod's: a container cannot have the host's where its pod has its own."""
    for kind in ("network", "ipc"):
        if getattr(asked, kind) == v1.NamespaceMode.NODE and getattr(pod, kind) != v1.NamespaceMode.NODE:
            raise fields.refuse(f"{path}.{kind}", "NODE", "contradicts the pod's own namespace_options")
    if asked.pid == v1.NamespaceMode.TARGET:
        fields.name(f"{path}.target_id", asked.target_id)


def _resources(path: str, resources: v1.LinuxContainerResources) -> None:
    resource_checks.check(path, resources)
    resource_checks.check_whole(path, resources)
