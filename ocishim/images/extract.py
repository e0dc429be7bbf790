"""One layer's tar, extracted into a directory by libarchive, with whiteouts in overlayfs's form.

It runs in a thread made for it that has chrooted into the directory: whatever names, links and orders a
hostile layer brings, they resolve inside. Ownership, modes, times, hard links and xattrs are the tar's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import posixpath
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from libarchive import extract, ffi, read
from libarchive.exception import ArchiveError

from ocishim.errors import InvalidArgument, OcishimError, OperationFailed, ResourceExhausted
from ocishim.images import whiteouts
from ocishim.linux import files, libc

if TYPE_CHECKING:
    from libarchive.entry import ArchiveEntry

    from ocishim.images.limits import Limits
    from ocishim.images.recipe import Recorder

BLOCK: Final = 256 << 10
MOST_REPLACED: Final = 1000
_LARGE: Final = 1 << 20
"""Bytes of a file from which on the disk may begin with it at once, while the next ones are unpacked."""
_KEPT_XATTRS: Final = (b"user.", b"security.capability")
_FLAGS: Final = (
    extract.EXTRACT_OWNER
    | extract.EXTRACT_PERM
    | extract.EXTRACT_TIME
    | extract.EXTRACT_XATTR
    | extract.EXTRACT_SECURE_NODOTDOT
    | extract.EXTRACT_SECURE_NOABSOLUTEPATHS
)
_PLAIN: Final = re.compile(r"[^/.][^/]*(?:/[^/.][^/]*)*+")
"""Names that are normal as they are; nearly all of them. One with a dot in front is looked at more closely."""
_FILESYSTEM_BLOCK: Final = 4096
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_OURS: Final = (errno.EPERM, errno.EACCES, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors that say something of this host rather than of the layer."""


class Source(Protocol):
    """Where the tar comes from; must not raise, since C calls it: errors are kept and 0 returned."""

    def seekable(self) -> bool:
        """No."""

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer; 0 at the end."""


@dataclass(slots=True)
class Extracted:
    """What came out."""

    size: int = 0
    """Bytes, in whole blocks of the filesystem."""
    inodes: int = 0
    replaced: list[str] = field(default_factory=list)
    """Files of which a later entry of the same tar took the place; N of them is kept as replaced/N beside the layer."""
    exact: bool = True
    """Whether all content that the tar brought is still there."""
    opaque: bool = False
    """Whether its root hides all of the layers below."""


def extract_layer(
    source: Source, directory: str, recorder: Recorder, *, form: whiteouts.Form, limits: Limits, beside: int
) -> Extracted:
    """Extract into the directory; call it in a thread of its own, whose root this changes for good.

    `beside` is a descriptor of the directory that holds it.

    Raises InvalidArgument for a tar that is none or holds what a layer must not, ResourceExhausted where the disk is
    full, OperationFailed where this host cannot make what the tar holds.
    """
    libc.unshare(libc.CLONE_FS)
    os.chroot(directory)
    os.chdir("/")
    os.umask(0o022)
    layer = _Layer(recorder, form, limits, beside)
    try:
        with (
            read.stream_reader(source, format_name="tar", filter_name="none", block_size=BLOCK) as archive,
            extract.new_archive_write_disk(_FLAGS) as disk,
        ):
            for entry in archive:
                layer.take(archive._pointer, disk, entry)  # noqa: SLF001 # type: ignore[attr-defined] - no accessor
        layer.finish()
    except ArchiveError as error:
        raise _failure(error.errno or 0, str(error)) from error
    except OSError as error:
        raise _failure(error.errno or 0, f"{error.filename!r}: {error.strerror}") from error
    return layer.extracted


def _failure(number: int, words: str) -> OcishimError:
    if number in _FULL:
        return ResourceExhausted(f"the disk is full: {words}")
    if number in _OURS:
        return OperationFailed(f"the layer cannot be extracted: {words}")
    return InvalidArgument(f"the layer's tar cannot be extracted: {words}")


class _Layer:
    def __init__(self, recorder: Recorder, form: whiteouts.Form, limits: Limits, beside: int) -> None:
        self.extracted = Extracted()
        self._recorder = recorder
        self._form = form
        self._limits = limits
        self._beside = beside
        self._entries = 0
        self._whiteouts: set[str] = set()
        self._opaque: set[str] = set()
        functions = _functions()
        self._extract = functions["read_extract2"]
        self._position = functions["filter_bytes"]
        self._holes = functions["entry_sparse_count"]
        self._xattr = functions

    def take(self, archive: int, disk: int, entry: ArchiveEntry) -> None:
        self._entries += 1
        size = entry.size or 0
        if self._entries > self._limits.entries or self.extracted.size + size > self._limits.size:
            raise InvalidArgument(
                f"the layer holds more than {self._limits.entries} entries or {self._limits.size} bytes"
            )
        name = inside(os.fsdecode(ffi.entry_pathname(entry._entry_p) or b""))  # noqa: SLF001
        # Few names are whiteouts': a search costs less than taking every name apart.
        if whiteouts.PREFIX in name:
            directory, base = posixpath.split(name)
            if base.startswith(whiteouts.PREFIX):
                self._whiteout(directory, base)
                return
        ffi.entry_copy_pathname(entry._entry_p, os.fsencode(name or "."))  # noqa: SLF001
        link = ffi.entry_hardlink(entry._entry_p)  # noqa: SLF001
        if link:
            ffi.entry_copy_link(entry._entry_p, os.fsencode(inside(os.fsdecode(link))))  # noqa: SLF001
        elif not ffi.entry_filetype(entry._entry_p):  # noqa: SLF001
            raise InvalidArgument(f"the layer's entry {name!r} has no type")
        self._filter_xattrs(entry._entry_p)  # noqa: SLF001
        self._make_way(name, is_directory=bool(entry.isdir))
        if size and entry.isreg and not link and not self._holes(entry._entry_p):  # noqa: SLF001
            # The header is read and nothing after it: the tar stands where the content begins.
            self._recorder.content(name, self._position(archive, 0), size)
        if self._extract(archive, entry._entry_p, disk):  # noqa: SLF001
            # libarchive's function for whole entries makes a warning of every failure.
            words = os.fsdecode(ffi.error_string(archive) or b"")
            raise _failure(ffi.errno(archive), f"{name!r}: {words}")
        if not link:
            if size >= _LARGE:
                files.start_writeback(name)
            self.extracted.inodes += 1
            self.extracted.size += -(-size // _FILESYSTEM_BLOCK) * _FILESYSTEM_BLOCK

    def _make_way(self, name: str, *, is_directory: bool) -> None:
        """A later entry takes the place of an earlier one, also of a whiteout of its name or of one of its parents.

        A directory in a whiteout's place shows nothing of the layers below: it is opaque.
        """
        # Most names are new: access() says so without an exception.
        if not is_directory and os.access(name, os.F_OK, follow_symlinks=False):
            self._clear(name)
        if not self._whiteouts:
            return
        for path in (*_parents(name), name):
            if path in self._whiteouts:
                self._remove(path)
                self._whiteouts.discard(path)
                if path != name or is_directory:
                    self._opaque.add(path)

    def _clear(self, name: str) -> None:
        present = os.lstat(name)
        if stat.S_ISDIR(present.st_mode):
            files.remove_tree(name)
            self.extracted.exact = False
        elif stat.S_ISREG(present.st_mode) and present.st_size:
            self._keep_replaced(name)

    def _keep_replaced(self, name: str) -> None:
        kept = len(self.extracted.replaced)
        if kept == MOST_REPLACED:
            self.extracted.exact = False
            return
        if not kept:
            os.mkdir("replaced", 0o700, dir_fd=self._beside)
        os.rename(name, f"replaced/{kept}", dst_dir_fd=self._beside)
        self.extracted.replaced.append(name)

    def _remove(self, whiteout: str) -> None:
        if whiteouts.unhide(whiteout, self._form):
            self.extracted.inodes -= 1

    def _whiteout(self, directory: str, base: str) -> None:
        self._make_way(directory, is_directory=True)
        if base == whiteouts.OPAQUE_FILE:
            os.makedirs(directory or ".", exist_ok=True)
            self._opaque.add(directory or ".")
            return
        if base.startswith(whiteouts.PREFIX * 2):
            return  # aufs's own files, which nothing reads any more
        hidden = base.removeprefix(whiteouts.PREFIX)
        if hidden in ("", ".", ".."):
            raise InvalidArgument(f"the layer hides {hidden!r} in {directory!r}, which is no file")
        target = posixpath.join(directory, hidden)
        os.makedirs(directory or ".", exist_ok=True)
        if os.access(target, os.F_OK, follow_symlinks=False):
            # A whiteout hides what lower layers have, never what this one brings.
            if stat.S_ISDIR(os.lstat(target).st_mode):
                self._opaque.add(target)
            return
        if target not in self._whiteouts:
            whiteouts.hide(target, self._form)
            self._whiteouts.add(target)
            self.extracted.inodes += 1

    def finish(self) -> None:
        """Mark what is opaque; whiteouts below it hide nothing, and overlayfs would list their names."""
        for whiteout in self._whiteouts:
            if any(parent in self._opaque for parent in (".", *_parents(whiteout))):
                self._remove(whiteout)
        self.extracted.opaque = "." in self._opaque
        for directory in self._opaque:
            whiteouts.make_opaque(directory, self._form)

    def _filter_xattrs(self, entry: int) -> None:
        """trusted.overlay.* in a tar would steer overlayfs itself; only what images need is kept."""
        if not self._xattr["entry_xattr_count"](entry):
            return
        self._xattr["entry_xattr_reset"](entry)
        kept: list[tuple[bytes, bytes]] = []
        name, value, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_size_t()
        pointers = ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)
        while self._xattr["entry_xattr_next"](entry, *pointers) == 0:
            if name.value is not None and name.value.startswith(_KEPT_XATTRS):
                kept.append((name.value, ctypes.string_at(value, size.value)))
        self._xattr["entry_xattr_clear"](entry)
        for key, content in kept:
            self._xattr["entry_xattr_add_entry"](entry, key, content, len(content))


def inside(name: str) -> str:
    """The name relative to the layer's root. Raises InvalidArgument where it climbs."""
    if _PLAIN.fullmatch(name):
        return name
    normal = posixpath.normpath(name.lstrip("/")) if name.strip("/") else "."
    if normal.split("/")[0] == "..":
        raise InvalidArgument(f"the layer's entry {name!r} leaves the layer")
    return "" if normal == "." else normal


def _parents(name: str) -> list[str]:
    """Directories that a name is in, the root not among them."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _functions() -> dict[str, ctypes._NamedFuncPointer]:
    """Functions of libarchive(3) that libarchive-c does not declare."""
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    declared = {
        "read_extract2": ([pointer, pointer, pointer], ctypes.c_int),
        "filter_bytes": ([pointer, ctypes.c_int], ctypes.c_int64),
        "entry_sparse_count": ([pointer], ctypes.c_int),
        "entry_xattr_count": ([pointer], ctypes.c_int),
        "entry_xattr_reset": ([pointer], ctypes.c_int),
        "entry_xattr_next": (
            [pointer, ctypes.POINTER(text), ctypes.POINTER(pointer), ctypes.POINTER(size)],
            ctypes.c_int,
        ),
        "entry_xattr_clear": ([pointer], None),
        "entry_xattr_add_entry": ([pointer, text, text, size], None),
    }
    return {name: ffi.ffi(name, arguments, result) for name, (arguments, result) in declared.items()}
