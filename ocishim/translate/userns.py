"""A pod's user namespace: which mappings of ids a request may give, and what an id inside is outside.

A mapping is made of ranges: `length` ids from `container` on are those from `host` on outside (user_namespaces(7)).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import betterproto

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.spec import runtime as spec
from ocishim.translate import fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ocishim.translate.facts import Identity

IDS: Final = 2**32 - 1
"""How many ids there are: the last number of 32 bits means 'none'."""
OVERFLOW: Final = 65534
"""What the kernel shows for an id that a namespace does not map (/proc/sys/kernel/overflowuid)."""
MOST_RANGES: Final = 340
"""Lines that the kernel takes in uid_map (user_namespaces(7))."""
_PING_GROUPS: Final = "net.ipv4.ping_group_range"
_NO_GROUP: Final = "1 0"
"""An empty range: nobody may ping without a capability (icmp(7))."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """Neighbouring ids and what they are on the host."""

    container: int
    host: int
    length: int


@dataclass(frozen=True, slots=True)
class IdMappings:
    """What users and groups of a namespace are on the host."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    def uid(self, inside: int) -> int:
        """The host's id of a user; nobody's for one that is not mapped."""
        return OVERFLOW if (found := outside(self.uids, inside)) is None else found

    def gid(self, inside: int) -> int:
        """The host's id of a group; nobody's for one that is not mapped."""
        return OVERFLOW if (found := outside(self.gids, inside)) is None else found

    def inverse(self) -> IdMappings:
        """What the host's ids are in the namespace."""
        return IdMappings(
            *(
                tuple(IdRange(each.host, each.container, each.length) for each in ranges)
                for ranges in (self.uids, self.gids)
            )
        )


def outside(ranges: Iterable[IdRange], inside: int) -> int | None:
    """The host's id of one of the namespace's; None where it has no such id."""
    for each in ranges:
        if 0 <= (offset := inside - each.container) < each.length:
            return each.host + offset
    return None


def id_map(ranges: Iterable[IdRange]) -> str:
    """The content of /proc/PID/uid_map or gid_map."""
    return "".join(f"{each.container} {each.host} {each.length}\n" for each in ranges)


def in_spec(ranges: Iterable[IdRange]) -> list[spec.IdMapping]:
    """As config.json has it."""
    return [spec.IdMapping(container_id=each.container, host_id=each.host, size=each.length) for each in ranges]


def of_pod(config: v1.PodSandboxConfig) -> IdMappings | None:
    """The mappings of a pod's own user namespace; None where it uses the host's."""
    return _of_options(config.linux.security_context.namespace_options)


def of_mount(mount: v1.Mount) -> IdMappings | None:
    """The mappings of an id-mapped mount; None for a plain one."""
    if not mount.uid_mappings and not mount.gid_mappings:
        return None
    return IdMappings(_ranges(mount.uid_mappings), _ranges(mount.gid_mappings))


def _of_options(options: v1.NamespaceOption) -> IdMappings | None:
    wanted = options.userns_options
    if wanted.mode != v1.NamespaceMode.POD or not betterproto.serialized_on_wire(wanted):
        return None
    return IdMappings(_ranges(wanted.uids), _ranges(wanted.gids))


def _ranges(given: Iterable[v1.IdMapping]) -> tuple[IdRange, ...]:
    return tuple(IdRange(each.container_id, each.host_id, each.length) for each in given)


def check_pod(path: str, options: v1.NamespaceOption) -> None:
    """Judge userns_options: POD with one mapping of users and one of groups from 0 on, NODE without any."""
    wanted = options.userns_options
    path = f"{path}.userns_options"
    if not betterproto.serialized_on_wire(wanted):
        return
    if wanted.mode not in (v1.NamespaceMode.POD, v1.NamespaceMode.NODE):
        name = v1.NamespaceMode(wanted.mode).name if wanted.mode in iter(v1.NamespaceMode) else int(wanted.mode)
        raise fields.refuse(f"{path}.mode", name, "is not POD or NODE")
    for key in ("uids", "gids"):
        given: Sequence[v1.IdMapping] = getattr(wanted, key)
        if wanted.mode == v1.NamespaceMode.NODE:
            if given:
                raise InvalidArgument(f"{path}.{key}: the host's user namespace (mode NODE) takes no mappings")
        elif len(given) != 1:
            raise fields.refuse(f"{path}.{key}", len(given), "mappings: a pod's user namespace has exactly one")
        elif given[0].container_id:
            raise fields.refuse(
                f"{path}.{key}[0].container_id", given[0].container_id, "is not 0: root must be mapped, as kubelet does"
            )
        else:
            _check(f"{path}.{key}", given)
    if wanted.uids and wanted.uids[0].length != wanted.gids[0].length:
        raise fields.refuse(
            f"{path}.gids[0].length", wanted.gids[0].length, f"differs from the {wanted.uids[0].length} of uids[0]"
        )


def check_container(path: str, options: v1.NamespaceOption, pod: v1.NamespaceOption) -> None:
    """A container that says anything of user namespaces must say what its pod does."""
    check_pod(path, options)
    if betterproto.serialized_on_wire(options.userns_options) and _of_options(options) != _of_options(pod):
        raise InvalidArgument(
            f"{path}.userns_options: {_told(_of_options(options))} differs from the pod's {_told(_of_options(pod))}"
        )


def _told(mappings: IdMappings | None) -> str:
    if mappings is None:
        return "the host's user namespace"
    uids, gids = (", ".join(id_map(each).splitlines()) for each in (mappings.uids, mappings.gids))
    return f"uids {uids!r} gids {gids!r}"


def check_mount(path: str, mount: v1.Mount, pod: v1.NamespaceOption) -> None:
    """Judge a mount's uidMappings and gidMappings, and what a pod's user namespace makes impossible."""
    mappings, own = of_mount(mount), _of_options(pod)
    if mappings is not None:
        for key in ("uidMappings", "gidMappings"):
            given = mount.uid_mappings if key == "uidMappings" else mount.gid_mappings
            if not given:
                raise InvalidArgument(f"{path}.{key} is required where the other ids are mapped")
            _check(f"{path}.{key}", given)
    if mount.image.image and mappings is not None and mappings != own:
        raise InvalidArgument(
            f"{path}.uidMappings: {_told(mappings)}: an image volume is mapped like its pod: {_told(own)}"
        )
    if mount.propagation == v1.MountPropagation.PROPAGATION_BIDIRECTIONAL and (own or mappings) is not None:
        # Mounts made in a mount namespace that another user namespace owns never reach the host (mount_namespaces(7)).
        why = "with mapped ids" if mappings else "in a pod with a user namespace of its own"
        raise InvalidArgument(f"{path}.propagation: PROPAGATION_BIDIRECTIONAL cannot be had {why}")


def _check(path: str, given: Sequence[v1.IdMapping]) -> None:
    """What the kernel would refuse with a bare EINVAL (user_namespaces(7), Defining user and group ID mappings)."""
    if len(given) > MOST_RANGES:
        raise fields.refuse(path, len(given), f"mappings: the kernel takes {MOST_RANGES} at the most")
    for index, each in enumerate(given):
        if not each.length:
            raise fields.refuse(f"{path}[{index}].length", 0, "ids are none")
        for key in ("container_id", "host_id"):
            first: int = getattr(each, key)
            if first + each.length > IDS:
                raise fields.refuse(
                    f"{path}[{index}].{key}", first, f"and the {each.length - 1} ids after it go beyond {IDS - 1}"
                )
    for key in ("container_id", "host_id"):
        ordered = sorted(given, key=lambda each: int(getattr(each, key)))
        for lower, upper in pairwise(ordered):
            first = getattr(upper, key)
            if getattr(lower, key) + lower.length > first:
                raise fields.refuse(f"{path}.{key}", first, "is in two of the mappings")


def check_identity(identity: Identity, mappings: IdMappings | None) -> None:
    """Raises InvalidArgument where the pod's user namespace lacks a user or group that the process would be."""
    if mappings is None:
        return
    if outside(mappings.uids, identity.uid) is None:
        raise InvalidArgument(f"user {identity.uid} is not mapped in the pod's user namespace ({_told(mappings)})")
    for gid in (identity.gid, *identity.additional_gids):
        if outside(mappings.gids, gid) is None:
            raise InvalidArgument(f"group {gid} is not mapped in the pod's user namespace ({_told(mappings)})")


def sysctls_outside(sysctls: Mapping[str, str], mappings: IdMappings | None) -> dict[str, str]:
    """Sysctls as the server must write them, which is outside: groups in net.ipv4.ping_group_range are the pod's."""
    written = dict(sysctls)
    if mappings is not None and _PING_GROUPS in written:
        written[_PING_GROUPS] = _ping_groups(written[_PING_GROUPS], mappings.gids)
    return written


def _ping_groups(value: str, gids: Sequence[IdRange]) -> str:
    """The range of the host's groups that the pod's range is, cut to those that the pod has (a pod has one mapping)."""
    try:
        low, high = (int(each) for each in value.split())
    except ValueError:
        return value  # the kernel's to refuse
    only = gids[0]
    low, high = max(low, only.container), min(high, only.container + only.length - 1)
    if low > high:
        return _NO_GROUP
    return f"{only.host + low - only.container} {only.host + high - only.container}"
