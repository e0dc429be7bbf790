"""Device nodes of the host, looked up for containers that get them."""

from __future__ import annotations

import os
import stat
import uuid
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument
from ocishim.translate.facts import DeviceFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_UUID: Final = "/dev/disk/by-uuid"
_NOT_FOR_CONTAINERS: Final = ("pts", "shm", "fd", "mqueue", "console", "core", "lxc", "lxd-mounts", ".udev")


def device(path: str) -> DeviceFacts | None:
    """The node at path (symbolic links followed), None where it is no character or block device."""
    found = os.stat(path)
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        return None
    return DeviceFacts(
        path=path,
        type=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


def devices_at(path: str, field: str) -> list[DeviceFacts]:
    """The node at path, or all nodes of the directory there. Raises InvalidArgument, naming the request's field, where
    there is neither."""
    try:
        if os.path.isdir(path):
            return list(_below(path))
        found = device(os.path.realpath(path))
    except OSError as error:
        raise InvalidArgument(f"{field}: {path!r}: {error.strerror}") from error
    if found is None:
        raise InvalidArgument(f"{field}: {path!r} is neither a device node nor a directory")
    return [found]


def filesystem_uuid(path: str) -> str:
    """The UUID by which udev knows the filesystem that a path is on; one made of its device number where it does not.

    Empty where there is no such path. Blocks.
    """
    try:
        device_number = os.stat(path).st_dev
    except OSError:
        return ""
    try:
        with os.scandir(_BY_UUID) as entries:
            for entry in entries:
                if entry.stat().st_rdev == device_number:
                    return entry.name
    except OSError:  # no udev here, or a device that goes
        pass
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"st_dev={device_number}"))


def host_devices() -> list[DeviceFacts]:
    """All nodes below /dev that a privileged container sees."""
    return list(_below("/dev"))


def _below(directory: str) -> Iterator[DeviceFacts]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in _NOT_FOR_CONTAINERS or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)
                continue
            try:
                found = device(entry.path)
            except OSError:  # gone meanwhile
                continue
            if found is not None:
                yield found
