"""Requests are judged here before anything is made: INVALID_ARGUMENT with the field and its value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.translate import fields, security, userns
from ocishim.translate.sandbox import cgroup_parent, sysctls

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = v1.NamespaceMode.__members__
_MOUNT_OPTIONS = ("noexec", "nodev", "nosuid")


def validate_sandbox(config: v1.PodSandboxConfig) -> None:
    """Judge a RunPodSandbox request's config."""
    metadata = config.metadata
    for key in ("name", "namespace", "uid"):
        fields.name(f"config.metadata.{key}", getattr(metadata, key))
    fields.text("config.hostname", config.hostname)
    if config.log_directory:
        fields.absolute("config.log_directory", config.log_directory)
    for index, mapping in enumerate(config.port_mappings):
        _port(f"config.port_mappings[{index}]", mapping)
    for key in ("servers", "searches", "options"):
        for value in getattr(config.dns_config, key):
            fields.text(f"config.dns_config.{key}", value)
    context = config.linux.security_context
    _namespaces("config.linux.security_context.namespace_options", context.namespace_options, pod=True)
    _user("config.linux.security_context", context)
    sysctls(config)
    cgroup_parent(config, "/")


def _port(path: str, mapping: v1.PortMapping) -> None:
    fields.known(f"{path}.protocol", mapping.protocol, v1.Protocol.__members__)
    fields.bounded(f"{path}.host_port", mapping.host_port, 0, 65535)
    fields.bounded(f"{path}.container_port", mapping.container_port, 1 if mapping.host_port else 0, 65535)
    fields.text(f"{path}.host_ip", mapping.host_ip)


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
        userns.check_pod(path, options)


def _user(path: str, context: v1.LinuxSandboxSecurityContext | v1.LinuxContainerSecurityContext) -> None:
    has_user = betterproto.serialized_on_wire(context.run_as_user)
    has_group = betterproto.serialized_on_wire(context.run_as_group)
    user_name = context.run_as_username if isinstance(context, v1.LinuxContainerSecurityContext) else ""
    fields.bounded(f"{path}.run_as_user", context.run_as_user.value, 0, fields.LARGEST_ID)
    fields.bounded(f"{path}.run_as_group", context.run_as_group.value, 0, fields.LARGEST_ID)
    for group in context.supplemental_groups:
        fields.bounded(f"{path}.supplemental_groups", group, 0, fields.LARGEST_ID)
    fields.known(
        f"{path}.supplemental_groups_policy",
        context.supplemental_groups_policy,
        v1.SupplementalGroupsPolicy.__members__,
    )
    if has_group and not has_user and not user_name:
        raise fields.refuse(f"{path}.run_as_group", context.run_as_group.value, "needs run_as_user")
    for key in ("seccomp", "apparmor"):
        profile: v1.SecurityProfile = getattr(context, key)
        fields.known(f"{path}.{key}.profile_type", profile.profile_type, v1.SecurityProfileProfileType.__members__)
        if profile.profile_type == v1.SecurityProfileProfileType.Localhost and not profile.localhost_ref:
            raise InvalidArgument(f"{path}.{key}.localhost_ref is required with profile_type Localhost")


def validate_container(config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig) -> None:
    """Judge a CreateContainer request's config against the pod it is for."""
    fields.name("config.metadata.name", config.metadata.name)
    if not config.image.image:
        raise InvalidArgument("config.image.image is required")
    fields.text("config.image.image", config.image.image)
    for key in ("command", "args"):
        for value in getattr(config, key):
            fields.text(f"config.{key}", value, newline=True)
    if config.working_dir:
        fields.absolute("config.working_dir", config.working_dir)
    for variable in config.envs:
        _variable(variable)
    if config.log_path:
        fields.beneath("config.log_path", config.log_path)
        if not sandbox.log_directory:
            raise fields.refuse("config.log_path", config.log_path, "needs the pod's log_directory")
    fields.known("config.stop_signal", config.stop_signal, v1.Signal.__members__)
    _mounts(config.mounts, sandbox.linux.security_context.namespace_options)
    for index, device in enumerate(config.devices):
        _device(f"config.devices[{index}]", device)
    if config.cdi_devices:
        raise InvalidArgument("config.CDI_devices: CDI devices are not supported yet")
    _container_security(config, sandbox)
    _resources("config.linux.resources", config.linux.resources)


def _variable(variable: v1.KeyValue) -> None:
    fields.text("config.envs", variable.key)
    if not variable.key or "=" in variable.key:
        raise fields.refuse("config.envs", variable.key, "is no name of an environment variable")
    if b"\0" in variable.value:
        raise fields.refuse("config.envs", variable.key, "has a value with a NUL character")


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
        for option in mount.mount_options:
            if option not in _MOUNT_OPTIONS:
                raise fields.refuse(f"{path}.mount_options", option, f"is none of {', '.join(_MOUNT_OPTIONS)}")
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
    if set(device.permissions) - set("rwm"):
        raise fields.refuse(f"{path}.permissions", device.permissions, "may hold r, w and m only")


def _container_security(config: v1.ContainerConfig, sandbox: v1.PodSandboxConfig) -> None:
    path = "config.linux.security_context"
    context = config.linux.security_context
    _namespaces(f"{path}.namespace_options", context.namespace_options, pod=False)
    userns.check_container(
        f"{path}.namespace_options", context.namespace_options, sandbox.linux.security_context.namespace_options
    )
    _user(path, context)
    fields.text(f"{path}.run_as_username", context.run_as_username)
    if context.privileged and not sandbox.linux.security_context.privileged:
        raise InvalidArgument(f"{path}.privileged: the pod's own security context is not privileged")
    for key in ("masked_paths", "readonly_paths"):
        for value in getattr(context, key):
            fields.absolute(f"{path}.{key}", value)
    security.check_capabilities(f"{path}.capabilities", context.capabilities)


def _resources(path: str, resources: v1.LinuxContainerResources) -> None:
    for key in ("cpu_period", "cpu_shares", "memory_limit_in_bytes"):
        fields.bounded(f"{path}.{key}", getattr(resources, key), 0, 2**62)
    fields.bounded(f"{path}.cpu_quota", resources.cpu_quota, -1, 2**62)
    fields.bounded(f"{path}.memory_swap_limit_in_bytes", resources.memory_swap_limit_in_bytes, -1, 2**62)
    fields.bounded(f"{path}.oom_score_adj", resources.oom_score_adj, -1000, 1000)
    for key in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(resources, key)
        if set(value) - set("0123456789,-"):
            raise fields.refuse(f"{path}.{key}", value, "is no list of numbers and ranges")
    for key in resources.unified:
        if "/" in key or not key:
            raise fields.refuse(f"{path}.unified", key, "is no name of a cgroup file")
