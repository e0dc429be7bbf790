"""What a container sees: the file systems that all have, the pod's files, the request's mounts."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.spec.runtime import Mount
from ocishim.translate.userns import outside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ocishim.translate.facts import ContainerInputs, GrantedDevice, MountSource

_PROPAGATION: Final = {
    v1.MountPropagation.PROPAGATION_PRIVATE: "rprivate",
    v1.MountPropagation.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    v1.MountPropagation.PROPAGATION_BIDIRECTIONAL: "rshared",
}
_TTY_GROUP: Final = 5
_NO_EXEC: Final = ["nosuid", "noexec", "nodev"]
_SHM: Final = "/dev/shm"  # noqa: S108 - a place in the container


def mounts(inputs: ContainerInputs) -> list[Mount]:
    """All mounts in the order in which they are made: a directory before what lies in it."""
    context = inputs.config.linux.security_context
    asked = [_request_mount(source) for source in inputs.mounts]
    table = {mount.destination: mount for mount in _defaults(inputs, privileged=context.privileged)}
    if inputs.sandbox.mappings is not None:
        table |= {mount.destination: mount for mount in _of_the_host(inputs, table["/dev/pts"])}
        if "ipc" not in inputs.sandbox.namespaces and not inputs.sandbox.host_mqueue:
            del table["/dev/mqueue"]
    if any(mount.destination == "/dev" for mount in asked):
        # The host's own /dev, or another whole one: nothing of ours goes over what is in it but the pod's memory.
        table = {place: mount for place, mount in table.items() if not place.startswith("/dev/") or place == _SHM}
    for extra in inputs.defaults.mounts:
        place = posixpath.normpath(extra.destination)
        table[place] = Mount(destination=place, type="bind", source=extra.source, options=list(extra.options))
    table |= {each.container_path: device_bind(each.device.path, each.container_path) for each in renamed(inputs)}
    table |= {mount.destination: mount for mount in asked}
    return in_order(table.values())


def renamed(inputs: ContainerInputs) -> list[GrantedDevice]:
    """Devices of a pod with a user namespace that the container has under another name than the host.

    No node can be made there, and runtimes bind what the host has under the container's name.
    """
    if inputs.sandbox.mappings is None:
        return []
    return [each for each in inputs.devices if each.container_path != each.device.path]


def device_bind(source: str, destination: str) -> Mount:
    """A device of the host's under another name, without making a node."""
    return _bind(destination, source, ["rw", "nosuid", "noexec"])


def in_order(made: Iterable[Mount]) -> list[Mount]:
    """A directory before what lies in it; of two equally deep ones the earlier stays first."""
    return sorted(made, key=lambda mount: mount.destination.rstrip("/").count("/"))


def _defaults(inputs: ContainerInputs, *, privileged: bool) -> list[Mount]:
    readonly = [] if privileged else ["ro"]
    result = [
        Mount(destination="/proc", type="proc", source="proc", options=_NO_EXEC),
        Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=_NO_EXEC),
        Mount(destination="/sys", type="sysfs", source="sysfs", options=[*_NO_EXEC, *(readonly or ["rw"])]),
        Mount(
            destination="/sys/fs/cgroup",
            type="cgroup",
            source="cgroup",
            options=[*_NO_EXEC, "relatime", *(readonly or ["rw"])],
        ),
    ]
    sandbox = inputs.sandbox
    result.append(_bind(_SHM, sandbox.shm, ["rw", "nosuid", "noexec", "nodev"]))
    root_is_readonly = inputs.config.linux.security_context.readonly_rootfs
    for destination, source in (
        ("/etc/resolv.conf", sandbox.resolv_conf),
        ("/etc/hostname", sandbox.hostname_file),
    ):
        access = "ro" if root_is_readonly else "rw"
        result.append(_bind(destination, source, [access, "nosuid", "noexec", "nodev"]))
    return result


def _of_the_host(inputs: ContainerInputs, pts: Mount) -> Iterator[Mount]:
    """What root of a pod's user namespace cannot mount, for it belongs to a namespace of the host's: bound instead."""
    sandbox, context = inputs.sandbox, inputs.config.linux.security_context
    access = "rw" if context.privileged else "ro"
    if "net" not in sandbox.namespaces:
        yield _bind("/sys", "/sys", [*_NO_EXEC, access])
    if "ipc" not in sandbox.namespaces:
        yield _bind("/dev/mqueue", "/dev/mqueue", _NO_EXEC)
    if context.namespace_options.pid == v1.NamespaceMode.NODE:
        yield _bind("/proc", "/proc", _NO_EXEC)
    if sandbox.mappings and outside(sandbox.mappings.gids, _TTY_GROUP) is None:
        yield pts.model_copy(update={"options": [each for each in pts.options if not each.startswith("gid=")]})


def _bind(destination: str, source: str, options: list[str]) -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=["rbind", "rprivate", *options])


def _request_mount(found: MountSource) -> Mount:
    asked = found.request
    options = ["rbind", _PROPAGATION[asked.propagation], "ro" if asked.readonly else "rw"]
    if asked.recursive_read_only:
        options.append("rro")
    return Mount(
        destination=posixpath.normpath("/" + asked.container_path.strip("/")),
        type="bind",
        source=found.source,
        options=[*options, *asked.mount_options],
    )


def rootfs_propagation(config: v1.ContainerConfig) -> str | None:
    """What the container's root must be for the mounts' propagation to reach it."""
    asked = {mount.propagation for mount in config.mounts}
    if v1.MountPropagation.PROPAGATION_BIDIRECTIONAL in asked:
        return "rshared"
    if v1.MountPropagation.PROPAGATION_HOST_TO_CONTAINER in asked:
        return "rslave"
    return None
