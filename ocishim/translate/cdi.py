"""Which CDI devices a container asks for, where they are described, and what their descriptions do to its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition
from ocishim.spec import runtime as spec
from ocishim.spec.cdi import ContainerEdits, split_device
from ocishim.translate import fields
from ocishim.translate.mounts import device_bind, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ocishim.api.runtime import v1
    from ocishim.spec.cdi import CdiSpec, DeviceNode
    from ocishim.translate.facts import DeviceFacts

ANNOTATION: Final = "cdi.k8s.io/"
_NODE_TYPES: Final = ("b", "c", "u")


@dataclass(frozen=True, slots=True)
class CdiFile:
    """A file that was read, and how much it counts: a device is taken from the file with the highest priority."""

    path: str
    priority: int
    spec: CdiSpec


@dataclass(frozen=True, slots=True)
class CdiEdits:
    """What the devices of one container ask for, in the order in which it is done."""

    edits: tuple[ContainerEdits, ...] = ()
    nodes: Mapping[str, DeviceFacts] = field(default_factory=dict)
    """Those of the host's nodes that the edits name, by path."""
    moves_interfaces: bool = False
    """Whether the runtime can do what netDevices asks for."""


def requested(config: v1.ContainerConfig) -> list[str]:
    """The devices that the request names in CDI_devices and in annotations, each once.

    Raises InvalidArgument for what is no `vendor/class=device`.
    """
    named = [(f"config.CDI_devices[{index}].name", device.name) for index, device in enumerate(config.cdi_devices)]
    for key, value in config.annotations.items():
        if key.startswith(ANNOTATION):
            named += [(f"config.annotations[{key}]", name) for name in value.split(",")]
    for path, name in named:
        if split_device(name) is None:
            raise fields.refuse(path, name, "is no CDI device: vendor/class=name is one")
    return list(dict.fromkeys(name for _, name in named))


def resolve(names: Iterable[str], files: Sequence[CdiFile], bad: Mapping[str, str]) -> tuple[ContainerEdits, ...]:
    """What to do for the devices: for each its file's common edits, once, then its own.

    `bad` says why files could not be read: a device may be missing because of one. Raises FailedPrecondition for
    a device that is described nowhere, or twice with equal right.
    """
    edits: list[ContainerEdits] = []
    used: set[str] = set()
    for name in names:
        file, own = _find(name, files, bad)
        if file.path not in used:
            used.add(file.path)
            edits.append(file.spec.container_edits)
        edits.append(own)
    return tuple(edits)


def _find(name: str, files: Sequence[CdiFile], bad: Mapping[str, str]) -> tuple[CdiFile, ContainerEdits]:
    kind, _, device = name.partition("=")
    found = [
        (file, each.container_edits)
        for file in files
        if file.spec.kind == kind
        for each in file.spec.devices
        if each.name == device
    ]
    if not found:
        reasons = "".join(f"; {path} cannot be used: {why}" for path, why in sorted(bad.items()))
        raise FailedPrecondition(f"config.CDI_devices: {name!r} is described by no CDI file{reasons}")
    highest = max(file.priority for file, _ in found)
    best = [pair for pair in found if pair[0].priority == highest]
    if len(best) > 1:
        places = " and ".join(sorted(file.path for file, _ in best))
        raise FailedPrecondition(f"config.CDI_devices: {name!r} is described by {places}: remove one of them")
    return best[0]


def host_paths(edits: Iterable[ContainerEdits]) -> list[str]:
    """The host's device nodes that must be looked at, because their description leaves something to the host."""
    return list(dict.fromkeys(node.host_path or node.path for each in edits for node in each.device_nodes))


def apply(base: spec.RuntimeSpec, cdi: CdiEdits) -> spec.RuntimeSpec:
    """The spec with the edits done. Raises FailedPrecondition for a device node that is not there, and for what the
    runtime cannot do."""
    result = base.model_copy(deep=True)
    for edit in cdi.edits:
        _process(result.process, edit)
        for node in edit.device_nodes:
            _device(result, node, cdi.nodes)
        for asked in edit.mounts:
            kept = [mount for mount in result.mounts if mount.destination != asked.container_path]
            kind = asked.type or "bind"
            result.mounts = [*kept, spec.Mount(
                destination=asked.container_path, type=kind, source=asked.host_path, options=list(asked.options)
            )]  # fmt: skip
        for hook in edit.hooks:
            program = spec.Hook(path=hook.path, args=hook.args or None, env=hook.env or None, timeout=hook.timeout)
            result.hooks = add_hook(result.hooks, hook.hook_name, program)
        _kernel(result.linux, edit, moves_interfaces=cdi.moves_interfaces)
    result.mounts = in_order(result.mounts)
    return result


def add_hook(hooks: spec.Hooks | None, stage: str, program: spec.Hook) -> spec.Hooks:
    """The hooks with one more at the end of a stage (its name as in config.json)."""
    document = (hooks or spec.Hooks()).model_dump(by_alias=True, exclude_none=True)
    document.setdefault(stage, []).append(program.model_dump(by_alias=True, exclude_none=True))
    return spec.Hooks.model_validate(document)


def _process(process: spec.Process, edit: ContainerEdits) -> None:
    variables = dict(entry.split("=", 1) for entry in process.env)
    variables |= dict(entry.split("=", 1) for entry in edit.env)
    process.env = [f"{key}={value}" for key, value in variables.items()]
    groups = {*(process.user.additional_gids or ()), *(gid for gid in edit.additional_gids if gid)}
    if edit.additional_gids:
        process.user.additional_gids = sorted(groups)


def _device(result: spec.RuntimeSpec, node: DeviceNode, host: Mapping[str, DeviceFacts]) -> None:
    path = node.host_path or node.path
    found = host.get(path)
    kind = node.type or (found.type if found else None)
    major = node.major if node.major is not None else (found.major if found else None)
    minor = node.minor if node.minor is not None else (found.minor if found else None)
    if kind is None or (kind in _NODE_TYPES and (major is None or minor is None)):
        raise FailedPrecondition(
            f"config.CDI_devices: {path} is no device node of this host, and its CDI file needs one"
        )
    if node.type and found and node.type != found.type and node.major is None and kind in _NODE_TYPES:
        raise FailedPrecondition(
            f"config.CDI_devices: {path} is of type {found.type}, and its CDI file says {node.type}"
        )
    user = result.process.user
    device = spec.Device(
        type=kind,
        path=node.path,
        major=major,
        minor=minor,
        file_mode=node.file_mode if node.file_mode is not None else (found.mode if found else None),
        uid=node.uid if node.uid is not None else user.uid,
        gid=node.gid if node.gid is not None else user.gid,
    )
    linux = result.linux
    linux.devices = [each for each in linux.devices if each.path != node.path]
    if linux.uid_mappings and found and path != node.path:
        result.mounts = [each for each in result.mounts if each.destination != node.path]
        result.mounts.append(device_bind(path, node.path))
    else:
        linux.devices.append(device)
    if kind in _NODE_TYPES:
        access = node.permissions or "rwm"
        rule = spec.DeviceRule(allow=True, type="b" if kind == "b" else "c", major=major, minor=minor, access=access)
        linux.resources.devices = [*linux.resources.devices, rule]


def _kernel(linux: spec.Linux, edit: ContainerEdits, *, moves_interfaces: bool) -> None:
    rdt = edit.intel_rdt
    if rdt is not None:
        linux.intel_rdt = spec.IntelRdt(
            clos_id=rdt.clos_id or None,
            schemata=rdt.schemata or None,
            l3_cache_schema=rdt.l3_cache_schema or None,
            mem_bw_schema=rdt.mem_bw_schema or None,
            enable_cmt=rdt.enable_cmt or None,
            enable_mbm=rdt.enable_mbm or None,
            enable_monitoring=rdt.enable_monitoring or None,
        )
    if not edit.net_devices:
        return
    if not moves_interfaces:
        names = ", ".join(device.host_interface_name for device in edit.net_devices)
        raise FailedPrecondition(
            f"config.CDI_devices: the CDI file moves network devices ({names}) into the container, and the runtime "
            "does not say that it can: choose a handler whose `features` lists linux.netDevices"
        )
    moved = {device.host_interface_name: spec.NetDevice(name=device.name) for device in edit.net_devices}
    inside = [device.name for device in (linux.net_devices or {}).values()] + [each.name for each in moved.values()]
    twice = sorted({name for name in inside if inside.count(name) > 1})
    if twice:
        raise FailedPrecondition(f"config.CDI_devices: two network devices would be called {', '.join(twice)}")
    linux.net_devices = {**(linux.net_devices or {}), **moved}
