"""Mounts by system call: bind mounts, file systems, and taking a tree of mounts away again.

All functions block (shortly) and are meant for a worker thread.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from ocishim.effects import effect
from ocishim.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NO_EXEC: Final = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
"""Flags of a file system for data only."""

_OPTIONAL: Final = 6
"""Where the optional fields of a line of mountinfo begin."""
_ESCAPED: Final = re.compile(r"[ \t\n\\]")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@effect
def bind(source: str, target: str, *, recursive: bool = False) -> None:
    """Bind-mount source on target; both must exist and be of the same kind."""
    libc.mount(source, target, None, libc.MS_BIND | (libc.MS_REC if recursive else 0))


@effect
def bind_idmapped(
    source: str, target: str, userns: str, *, recursive: bool = False, readonly: bool = False, slave: bool = False
) -> None:
    """Bind-mount source on target with the ids on disk shown as what they are outside the user namespace of that file.

    Both must be of the same kind. All of it or nothing: each filesystem mounted there has to be able to
    (MOUNT_ATTR_IDMAP in mount_setattr(2)). What is mounted in source later shows up only where it is a slave of it;
    what is unmounted here is never unmounted there.
    """
    deep = libc.AT_RECURSIVE if recursive else 0
    attributes = libc.MOUNT_ATTR_IDMAP | (libc.MOUNT_ATTR_RDONLY if readonly else 0)
    namespace = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        tree = libc.open_tree(libc.AT_FDCWD, source, libc.OPEN_TREE_CLONE | deep)
        try:
            propagation = libc.MS_SLAVE if slave else libc.MS_PRIVATE
            libc.mount_setattr(
                tree, "", libc.AT_EMPTY_PATH | deep, set_=attributes, propagation=propagation, userns=namespace
            )
            libc.move_mount(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(namespace)


def try_idmapped_tmpfs(userns: str) -> None:
    """Make a tmpfs with ids mapped, mounted nowhere, and let it go. Raises OSError where the kernel cannot."""
    with ExitStack() as stack:
        fs = libc.fsopen("tmpfs")
        stack.callback(os.close, fs)
        libc.fsconfig(fs, libc.FSCONFIG_CMD_CREATE)
        mounted = libc.fsmount(fs)
        stack.callback(os.close, mounted)
        namespace = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, namespace)
        libc.mount_setattr(mounted, "", libc.AT_EMPTY_PATH, set_=libc.MOUNT_ATTR_IDMAP, userns=namespace)


def has_attributes() -> bool:
    """Whether the kernel sets attributes of a whole tree of mounts: mount_setattr(2), Linux 5.12."""
    try:
        libc.mount_setattr(libc.AT_FDCWD, "/", 0)
    except OSError:
        return False
    return True


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


def submounts(paths: Iterable[str]) -> dict[str, list[str]]:
    """The mount points below each of the paths that has any, in mount order; paths have no symbolic links.

    The table is read once and only searched for the most part: a node with many pods has thousands of lines.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        table = file.read()
    found = {}
    for path in paths:
        prefix = _escape(path.rstrip("/") + "/")
        if f" {prefix}" in table:
            points = [line.split(" ", 5)[4] for line in table.splitlines()]
            found[path] = [unescape(point) for point in points if point.startswith(prefix)]
    return found


def _escape(path: str) -> str:
    return _ESCAPED.sub(lambda match: f"\\{ord(match.group()):03o}", path)


def filesystem_of(path: str) -> str:
    """The type of the filesystem that path is on, such as ext4; 'unknown' where the mount table does not tell."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            if line.split(" ", 3)[2] == number:
                return line.partition(" - ")[2].split(" ", 1)[0]
    return "unknown"


def unescape(field: str) -> str:
    r"""Undo the kernel's octal escapes (\040 and kin) of a path in mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), field)


def is_mountpoint(path: str) -> bool:
    """Whether something is mounted exactly at path."""
    return any(found == os.path.realpath(path) for found in mountpoints_below(path))
