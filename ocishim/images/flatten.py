"""Root filesystems by copying, for hosts where overlayfs cannot be mounted: one tree of what a stack of layers shows.

Layers are walked from the top, directory by directory, so that nothing is copied that an upper layer hides. Links in
layers lead nowhere: every name is opened relative to its directory, and no symbolic link is followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import OcishimError, OperationFailed, ResourceExhausted
from ocishim.images import whiteouts
from ocishim.linux import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocishim.translate.userns import IdMappings

    Step = Callable[[int, int, int, int], int]
    Way = Callable[[int, int, os.stat_result], None]

_CAPABILITY: Final = "security.capability"
_KEPT_XATTRS: Final = ("user.", _CAPABILITY)
_VERSION_2_SIZE: Final = 20
_VERSION_3: Final = 0x03000000
_CAPABILITY_FLAGS: Final = 0x00FFFFFF
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_CANNOT: Final = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
"""What kernels, filesystems and seccomp filters answer to a way of copying that they do not have."""
_FICLONE: Final = 0x40049409
"""ioctl_ficlone(2). Some architectures number it otherwise; there it is refused, and content copied."""
_SECTOR: Final = 512
"""The unit of st_blocks (stat(2))."""
_PART: Final = 1000
"""Characters of a path that one system call is given; they are four bytes at most, and PATH_MAX is 4096."""
_BUFFER: Final = 1 << 20


def flatten(layers: Sequence[str], target: str, shift: IdMappings | None = None) -> None:
    """Make in target, an empty directory, the tree that overlayfs would show of the layers (lowest first).

    Content, modes, owners, mtimes, hard links within a layer, holes, user.* xattrs and file capabilities are kept; the
    root directory looks as the topmost layer's. Both forms of whiteouts.py are read, also in one layer. An opaque root
    hides all layers below it, as the image-spec has it (layer.md), though overlayfs itself does not look there.
    Owners are those that a shift makes of them, if given, and file capabilities hold in its user namespace only.

    Blocks for as long as the copying takes: call it in a thread.
    Raises ResourceExhausted where the disk is full and OperationFailed for all else; the caller then removes target.
    """
    # What a repeated layer does lower down, its topmost place does again.
    stack = list(dict.fromkeys(reversed(layers)))
    with ExitStack() as opened:
        roots = []
        for path in (target, *stack):
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise _failure(path, error) from error
            opened.callback(os.close, fd)
            roots.append(fd)
        if not stack:
            return
        tree = _Tree(roots[1:], roots[0], shift)
        try:
            tree.copy()
        except OSError as error:
            raise _failure(f"{target}/{tree.at}", error) from error


def _failure(where: str, error: OSError) -> OcishimError:
    if error.errno in _FULL:
        return ResourceExhausted(f"{where!r} cannot be copied out of its layer: the disk is full ({error.strerror})")
    return OperationFailed(f"{where!r} cannot be copied out of its layer: {error.strerror}")


class _Tree:
    """One copying; directories wait as paths, not as descriptors, so that a tree may be of any depth."""

    def __init__(self, layers: list[int], target: int, shift: IdMappings | None) -> None:
        self.at = ""
        """The path that is being made."""
        self._layers = layers
        self._target = target
        self._shift = shift
        self._linked: dict[tuple[int, int], tuple[str, str]] = {}
        """By layer and inode: directory and name of its first link in target."""
        self._ways: list[Way] = [_clone, _copy_in_kernel, _copy_by_hand]

    def copy(self) -> None:
        pending = [("", list(range(len(self._layers))))]
        while pending:
            pending += self._directory(*pending.pop())

    def _directory(self, path: str, layers: list[int]) -> list[tuple[str, list[int]]]:
        """Make one directory's entries, of the layers that have it from the topmost on.

        Returns the directories in it, made but not filled. Nothing is made in this one afterwards: its mtime stays.
        """
        names = _Names()
        with _opened(self._target, path) as made:
            looks: tuple[os.stat_result, dict[str, bytes]] | None = None
            for layer in layers:
                self.at = path
                with _opened(self._layers[layer], path) as source:
                    looks = looks or (os.fstat(source), _xattrs(source))
                    with os.scandir(source) as scanned:
                        entries = list(scanned)
                    for entry in names.take(layer, entries):
                        self.at = f"{path}/{entry.name}" if path else entry.name
                        self._make(layer, path, entry, source, made)
                    if names.opaque or _has_opaque_xattr(source):
                        break
            self.at = path
            if looks:
                _set_attributes(made, *looks, self._shift)
        return [(f"{path}/{name}" if path else name, found) for name, found in names.directories.items()]

    def _make(self, layer: int, path: str, entry: os.DirEntry[str], source: int, made: int) -> None:
        name = entry.name
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=made)
            return
        if found.st_nlink > 1:
            first = self._linked.setdefault((layer, found.st_ino), (path, name))
            if first != (path, name):
                with _opened(self._target, first[0]) as directory:
                    os.link(first[1], name, src_dir_fd=directory, dst_dir_fd=made, follow_symlinks=False)
                return
        if stat.S_ISREG(found.st_mode):
            self._file(name, found, source, made)
        else:
            _special(name, found, source, made, self._shift)

    def _file(self, name: str, found: os.stat_result, source: int, made: int) -> None:
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            new = os.open(name, flags, 0o600, dir_fd=made)
            try:
                if found.st_size:
                    self._content(old, new, found)
                _set_attributes(new, found, _xattrs(old), self._shift)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _content(self, old: int, new: int, found: os.stat_result) -> None:
        while True:
            try:
                self._ways[0](old, new, found)
            except OSError as error:
                if error.errno not in _CANNOT or len(self._ways) == 1:
                    raise
                # What cannot be done for one file cannot be done for the next either.
                del self._ways[0]
            else:
                return


class _Names:
    """What one directory shows, told by the layers that have it, the topmost first."""

    def __init__(self) -> None:
        self.directories: dict[str, list[int]] = {}
        """Layers that each directory in it is merged of."""
        self.opaque = False
        """Whether a marker file hides the layers below."""
        self._settled: set[str] = set()
        """Names to which layers further down add nothing."""

    def take(self, layer: int, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """The entries of one more layer that are seen and that no layer above it has."""
        new = []
        hidden = set()
        for entry in entries:
            name = entry.name
            hides = _hidden_by(entry)
            if hides is not None:
                hidden.add(hides)
                self.opaque = self.opaque or name == whiteouts.OPAQUE_FILE
                continue
            if name in self._settled:
                continue
            if name not in self.directories:
                new.append(entry)
            if entry.is_dir(follow_symlinks=False):
                self.directories.setdefault(name, []).append(layer)
            else:
                self._settled.add(name)
        # A whiteout hides what lower layers have, never what its own brings.
        self._settled |= hidden
        return new


def _hidden_by(entry: os.DirEntry[str]) -> str | None:
    """The name that a whiteout hides; None for what is no whiteout."""
    if entry.is_file(follow_symlinks=False):
        if entry.name.startswith(whiteouts.PREFIX) and not entry.stat(follow_symlinks=False).st_size:
            return entry.name.removeprefix(whiteouts.PREFIX)
    elif not entry.is_symlink() and not entry.is_dir(follow_symlinks=False):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode) and not found.st_rdev:
            return entry.name
    return None


def _has_opaque_xattr(directory: int) -> bool:
    try:
        return os.getxattr(directory, whiteouts.OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


@contextmanager
def _opened(root: int, path: str) -> Iterator[int]:
    """A descriptor of a directory below root, reached without symbolic links whatever the length of its path."""
    at, rest = root, path or "."
    try:
        while rest:
            cut = len(rest) if len(rest) <= _PART else rest.rindex("/", 0, _PART)
            below = libc.openat2(at, rest[:cut], os.O_RDONLY | os.O_DIRECTORY, resolve=libc.RESOLVE_NO_SYMLINKS)
            if at != root:
                os.close(at)
            at, rest = below, rest[cut + 1 :]
        yield at
    finally:
        if at != root:
            os.close(at)


def _special(name: str, found: os.stat_result, source: int, made: int, shift: IdMappings | None) -> None:
    """A symbolic link, FIFO, device or socket; none of them is opened, for that could wait or act on the host."""
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=made)
    else:
        os.mknod(name, stat.S_IFMT(found.st_mode) | 0o600, found.st_rdev, dir_fd=made)
    os.chown(name, *_owner(found, shift), dir_fd=made, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=made)
    # There is no call for xattrs that takes a directory and a name.
    for key, value in _xattrs(f"/proc/self/fd/{source}/{name}").items():
        os.setxattr(f"/proc/self/fd/{made}/{name}", key, _shifted(key, value, shift), follow_symlinks=False)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=made, follow_symlinks=False)


def _xattrs(of: int | str) -> dict[str, bytes]:
    """What is kept of a descriptor's xattrs, or of those of a path, whose last part is not followed."""
    follow = isinstance(of, int)
    try:
        names = os.listxattr(of, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {name: os.getxattr(of, name, follow_symlinks=follow) for name in names if name.startswith(_KEPT_XATTRS)}


def _owner(found: os.stat_result, shift: IdMappings | None) -> tuple[int, int]:
    return (found.st_uid, found.st_gid) if shift is None else (shift.uid(found.st_uid), shift.gid(found.st_gid))


def _shifted(key: str, value: bytes, shift: IdMappings | None) -> bytes:
    """File capabilities that hold for the host hold for the user namespace instead: version 2 becomes version 3, which
    names that namespace's root (File capability extended attribute versioning, capabilities(7))."""
    if shift is None or key != _CAPABILITY or len(value) != _VERSION_2_SIZE:
        return value
    head = int.from_bytes(value[:4], "little") & _CAPABILITY_FLAGS | _VERSION_3
    return head.to_bytes(4, "little") + value[4:] + shift.uid(0).to_bytes(4, "little")


def _set_attributes(new: int, found: os.stat_result, xattrs: dict[str, bytes], shift: IdMappings | None) -> None:
    # A change of owner takes setuid and capabilities away, so that it comes first; all of them change no mtime but the
    # content did.
    os.fchown(new, *_owner(found, shift))
    os.fchmod(new, stat.S_IMODE(found.st_mode))
    for key, value in xattrs.items():
        os.setxattr(new, key, _shifted(key, value, shift))
    os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))


def _clone(old: int, new: int, _: os.stat_result) -> None:
    """Share the blocks, on filesystems that can (btrfs, XFS, bcachefs): it takes no time and no room."""
    fcntl.ioctl(new, _FICLONE, old)


def _copy_in_kernel(old: int, new: int, found: os.stat_result) -> None:
    _copy(old, new, found, _range)


def _copy_by_hand(old: int, new: int, found: os.stat_result) -> None:
    _copy(old, new, found, _read_and_write)


def _copy(old: int, new: int, found: os.stat_result, step: Step) -> None:
    end = 0
    for start, end in _data(old, found):
        position = start
        while position < end:
            position += step(old, new, position, end - position)
    if end < found.st_size:
        os.ftruncate(new, found.st_size)


def _data(old: int, found: os.stat_result) -> Iterator[tuple[int, int]]:
    """Where a file has content between its holes: first byte and the one behind the last."""
    if found.st_blocks * _SECTOR >= found.st_size:
        yield 0, found.st_size
        return
    end = 0
    while end < found.st_size:
        try:
            start = os.lseek(old, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(old, start, os.SEEK_HOLE)
        yield start, end


def _range(old: int, new: int, position: int, length: int) -> int:
    copied = os.copy_file_range(old, new, length, position, position)
    if not copied:
        # Filesystems that make their content up as it is read answer so.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return copied


def _read_and_write(old: int, new: int, position: int, length: int) -> int:
    piece = os.pread(old, min(length, _BUFFER), position)
    if not piece:
        raise OSError(errno.EIO, "the layer's file is shorter than its size says")
    return os.pwrite(new, piece, position)
