"""Mounts by system call: bind mounts, file systems, and taking a tree of mounts away again.

All functions block (shortly) and are meant for a worker thread.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocishim.effects import effect
from ocishim.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_EXEC: Final = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
"""Flags of a file system for data only."""

_OPTIONAL: Final = 6
"""Where the optional fields of a line of mountinfo begin."""
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@effect
def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Bind-mount source on target; both must exist and be of the same kind."""
    libc.mount(source, target, None, libc.MS_BIND | (libc.MS_REC if recursive else 0))


@effect
def mount(source: str, target: str, fstype: str, *, flags: int = 0, data: str | None = None) -> None:
    """Mount a file system; a thin name for mount(2) without bind flags."""
    libc.mount(source, target, fstype, flags, data)


def make_shared(target: str) -> None:
    """Let mounts below target propagate to its peers and back (mount --make-rshared)."""
    libc.mount(None, target, None, libc.MS_SHARED | libc.MS_REC)


def make_private(target: str) -> None:
    """Stop propagation of the mount at target (mount --make-private)."""
    libc.mount(None, target, None, libc.MS_PRIVATE)


@effect
def unmount(target: str, *, detach: bool = True) -> bool:
    """Take the topmost mount at target away; False where nothing was mounted or target is gone.

    Detached by default: a process that still holds a file there does not keep the directory busy.
    """
    try:
        libc.umount2(target, libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if detach else 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def unmount_all(target: str) -> None:
    """Take away all mounts stacked at target itself (not those below it)."""
    while unmount(target):
        pass


def unmount_tree(path: str) -> None:
    """Take away every mount at path or below it, the deepest first."""
    for mountpoint in reversed(list(mountpoints_below(path))):
        with suppress(FileNotFoundError):
            unmount(mountpoint)


def mountpoints_below(path: str) -> Iterator[str]:
    """Mount points at path or below it in mount order, as /proc/self/mountinfo lists them (proc(5))."""
    real = os.path.realpath(path)
    prefix = real.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            mountpoint = unescape(line.split(" ", 5)[4])
            if mountpoint == real or mountpoint.startswith(prefix):
                yield mountpoint


def propagation(path: str) -> tuple[str, set[str]]:
    """The mount point that path lies on, and how that mount propagates: `shared`, `master` (it is a slave), neither."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" ")
            if fields[0] == number:
                optional = fields[_OPTIONAL : fields.index("-", _OPTIONAL)]
                return unescape(fields[4]), {tag.partition(":")[0] for tag in optional}
    return path, set()


def unescape(field: str) -> str:
    r"""Undo the kernel's octal escapes (\040 and kin) of a path in mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), field)


def is_mountpoint(path: str) -> bool:
    """Whether something is mounted exactly at path."""
    return any(found == os.path.realpath(path) for found in mountpoints_below(path))
