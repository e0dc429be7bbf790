"""Files that survive power loss, and paths that cannot be led astray by symbolic links."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ocishim.effects import effect
from ocishim.linux import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTOR = 512
"""The unit of st_blocks, whatever the filesystem's own is (stat(2))."""


@effect
def write_atomic(path: str, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace path by data, so that a reader or a crash sees the old or the new content, never a part.

    Written to a temporary name beside it, fsynced (unless not durable), renamed, and the directory fsynced.
    Blocks on the disk: call it in a thread.
    """
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb", closefd=True) as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path  # a full disk is met by write(2), which knows no name
        raise
    if durable:
        sync_directory(os.path.dirname(path))


@contextmanager
def replacing(path: str, *, mode: int = 0o600) -> Iterator[int]:
    """A descriptor of a new file that is at path, whole and durable, when all went well, and nowhere when not.

    The file has no name before it is finished, where the filesystem can do that, so that even a crash leaves nothing.
    """
    directory, temporary = os.path.dirname(path), f"{path}.{secrets.token_hex(4)}.tmp"
    named = False
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        fd, named = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), True
    try:
        yield fd
        os.fsync(fd)
        if not named:
            # The link of /proc leads to the file itself (open(2), O_TMPFILE); only with a directory's descriptor,
            # which the absolute path makes no use of, is it linkat(2), which can follow it.
            os.link(f"/proc/self/fd/{fd}", temporary, src_dir_fd=fd, follow_symlinks=True)
            named = True
        os.rename(temporary, path)
        named = False
        sync_directory(directory)
    finally:
        os.close(fd)
        if named:
            unlink(temporary)


def sync_directory(path: str) -> None:
    """fsync(2) a directory, so that names made or removed in it are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def start_writeback(path: str) -> None:
    """Let the kernel begin to write a file's content to disk and do not wait, so that a later sync has less to do."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            libc.sync_file_range(fd, libc.SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)


@effect
def rename(source: str, target: str) -> None:
    """rename(2)."""
    os.rename(source, target)


@effect
def unlink(path: str) -> bool:
    """Remove a file; False where there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


@effect
def remove_tree(path: str) -> None:
    """Remove a directory tree and be content where it is gone already; never follows symbolic links."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        try:
            shutil.rmtree(path)
        except RecursionError:
            _remove_deep(path)


def _remove_deep(top: str) -> None:
    """Remove a tree of any depth: directories are moved up, so that no path is longer than one name below top."""
    pending = [top]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            present = list(entries)
        for entry in present:
            if entry.is_dir(follow_symlinks=False):
                raised = f"{top}/raised-{secrets.token_hex(8)}"
                os.rename(entry.path, raised)
                pending.append(raised)
            else:
                os.unlink(entry.path)
        if directory != top:
            os.rmdir(directory)
    os.rmdir(top)


def copy_attributes(source: str, target: str) -> None:
    """Give target the mode and owner of source."""
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))


def open_beneath(root: str, path: str) -> int | None:
    """A descriptor of a regular file, with path resolved as a process chrooted into root would; None if absent.

    Raises OSError where it is no regular file; a FIFO is not waited for.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = libc.openat2(
            root_fd,
            path.lstrip("/") or ".",
            os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY,
            resolve=libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(root_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} in {root} is not a regular file")
    return fd


def read_beneath(root: str, path: str, *, limit: int) -> bytes | None:
    """The content of what open_beneath opens. Raises OSError also where it is longer than limit bytes."""
    fd = open_beneath(root, path)
    if fd is None:
        return None
    with open(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path} in {root} is longer than {limit} bytes")
    return data


def make_directory_beneath(root: str, path: str) -> None:
    """Make path and its missing parents inside root, resolving symbolic links as a process chrooted there would.

    Raises OSError where something else than a directory is in the way.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
    root_fd = os.open(root, flags | os.O_CLOEXEC)
    try:
        walked = "."
        for part in (part for part in path.split("/") if part not in ("", ".")):
            parent = libc.openat2(root_fd, walked, flags, resolve=resolve)
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            walked = f"{walked}/{part}"
        os.close(libc.openat2(root_fd, walked, flags, resolve=resolve))
    finally:
        os.close(root_fd)


@effect
def replace_beneath(root: str, path: str, content: bytes) -> None:
    """Put a new file where path leads inside root, in place of whatever file or link is there.

    Directories on the way are resolved as a process chrooted there would; they are made where they are missing.
    """
    directory, name = os.path.split(path)
    make_directory_beneath(root, directory)
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent = libc.openat2(
            root_fd,
            directory.lstrip("/") or ".",
            os.O_PATH | os.O_DIRECTORY,
            resolve=libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS,
        )
    finally:
        os.close(root_fd)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o644, dir_fd=parent), "wb") as file:
            file.write(content)
    finally:
        os.close(parent)


def tree_usage(path: str) -> tuple[int, int]:
    """Bytes on disk and inodes below a directory; what vanishes meanwhile is nothing, hard links are one. Blocks."""
    used, inodes = 0, 0
    linked: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode):
                            pending.append(entry.path)
                        elif found.st_nlink > 1:
                            if (found.st_dev, found.st_ino) in linked:
                                continue
                            linked.add((found.st_dev, found.st_ino))
                        used += found.st_blocks * _SECTOR
                        inodes += 1
        except (FileNotFoundError, NotADirectoryError):
            continue
    return used, inodes


def own_usage(path: str) -> tuple[int, int]:
    """Bytes on disk and inodes of a file or a directory itself; nothing where it is gone."""
    try:
        return os.lstat(path).st_blocks * _SECTOR, 1
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0


def names(directory: str) -> list[str]:
    """What a directory holds; nothing where it is gone or none."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
