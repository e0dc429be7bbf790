"""System calls that Python 3.11 has no function for, each a typed line that raises OSError.

ctypes releases the interpreter lock around every call. Numbers of calls that glibc 2.36 does not wrap
are the same on all architectures that Linux added them to after 5.1 (asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Final

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_MOVE: Final = 0x2000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000
MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8

AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

FSOPEN_CLOEXEC: Final = 0x1
FSMOUNT_CLOEXEC: Final = 0x1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
OPEN_TREE_CLONE: Final = 0x1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC

PR_SET_CHILD_SUBREAPER: Final = 36
SYNC_FILE_RANGE_WRITE: Final = 2

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mount.argtypes = (
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    )
    libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
    return libc


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Options longer than a page are cut by the kernel; use the fsopen family for those."""
    _check(
        _libc().mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)),
        target,
    )


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc().umount2(_bytes(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread only where the flag allows it."""
    _check(_libc().unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, nstype: int) -> None:
    """setns(2), for the calling thread."""
    _check(_libc().setns(fd, nstype), f"setns({nstype:#x})")


def openat2(dirfd: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """openat2(2); close-on-exec is always set. Returns a descriptor that the caller owns."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd = _libc().syscall(ctypes.c_long(_SYS_OPENAT2), dirfd, _bytes(path), ctypes.byref(how), ctypes.sizeof(how))
    return _check(fd, path)


def fsopen(fstype: str) -> int:
    """fsopen(2): a descriptor of a new filesystem configuration."""
    return _check(_libc().syscall(ctypes.c_long(_SYS_FSOPEN), _bytes(fstype), FSOPEN_CLOEXEC), fstype)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """fsconfig(2). A string value is at most 255 bytes long."""
    _check(
        _libc().syscall(ctypes.c_long(_SYS_FSCONFIG), fd, command, _bytes(key), _bytes(value), 0),
        f"{key}={value}",
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of a detached mount."""
    return _check(_libc().syscall(ctypes.c_long(_SYS_FSMOUNT), fd, FSMOUNT_CLOEXEC, attributes), "fsmount")


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2)."""
    return _check(_libc().syscall(ctypes.c_long(_SYS_OPEN_TREE), dirfd, _bytes(path), flags | OPEN_TREE_CLOEXEC), path)


def move_mount(fd: int, target: str) -> None:
    """move_mount(2) of the mount that fd names onto a path."""
    _check(
        _libc().syscall(ctypes.c_long(_SYS_MOVE_MOUNT), fd, b"", -100, _bytes(target), MOVE_MOUNT_F_EMPTY_PATH),
        target,
    )


def mount_setattr(dirfd: int, path: str, flags: int, *, set_: int = 0, clear: int = 0, propagation: int = 0) -> None:
    """mount_setattr(2)."""
    attributes = _MountAttr(set_, clear, propagation, 0)
    _check(
        _libc().syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            dirfd,
            _bytes(path),
            flags,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        ),
        path,
    )


def syncfs(fd: int) -> None:
    """syncfs(2): write everything of the filesystem that fd is on to disk."""
    _check(_libc().syncfs(fd), "syncfs")


def sync_file_range(fd: int, flags: int) -> None:
    """sync_file_range(2) of a whole file."""
    nothing = ctypes.c_int64(0)
    _check(_libc().sync_file_range(fd, nothing, nothing, ctypes.c_uint(flags)), "sync_file_range")


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument."""
    _check(_libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option})")
