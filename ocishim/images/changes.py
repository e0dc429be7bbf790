"""What a container has changed of its image: gathered from its writable layer, and laid over another's root.

Blocks: call it in a thread. Python's tarfile writes what is ours; what a stranger may have written libarchive reads,
in a thread that has chrooted into the root it changes.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from libarchive import extract, ffi, read
from libarchive.exception import ArchiveError

from ocishim.errors import InvalidArgument
from ocishim.images import whiteouts
from ocishim.linux import files, libc
from ocishim.spec import checkpoint as spec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from ocishim.translate.userns import IdMappings

_OPAQUE_XATTRS: Final = (whiteouts.OPAQUE_XATTR, "user.overlay.opaque", "user.fuseoverlayfs.opaque")
_KEPT_XATTRS: Final = ("user.", "security.capability")
_OVERLAYS_OWN: Final = ("user.overlay.", "user.fuseoverlayfs.")
_FLAGS: Final = (
    extract.EXTRACT_OWNER
    | extract.EXTRACT_PERM
    | extract.EXTRACT_TIME
    | extract.EXTRACT_XATTR
    | extract.EXTRACT_UNLINK
    | extract.EXTRACT_SECURE_NODOTDOT
    | extract.EXTRACT_SECURE_NOABSOLUTEPATHS
)
_BLOCK: Final = 256 << 10


def gather(
    upper: str,
    lowers: Sequence[str],
    tar: str,
    *,
    skip: Collection[str],
    whole: bool = False,
    markers: bool = False,
    mappings: IdMappings | None = None,
) -> list[str]:
    """Write all that the writable layer holds into a new tar; returns what it hides of the layers below.

    `skip` are paths that mounts cover. `whole` is for a root filesystem that is a copy: the layer is all of it.
    With `markers`, files may say what is hidden (see whiteouts.py). `mappings` are those of the user namespace that
    the files' owners are of: in the tar they are as the container sees them.
    """
    inside = mappings.inverse() if mappings else None
    gathered = _Gathered(upper, lowers, frozenset(path.strip("/") for path in skip), markers=markers, inside=inside)
    with tarfile.open(tar, "x", format=tarfile.PAX_FORMAT) as archive:
        gathered.add(archive, "", opaque=whole)
    return gathered.deleted


class _Gathered:
    def __init__(
        self, upper: str, lowers: Sequence[str], skip: frozenset[str], *, markers: bool, inside: IdMappings | None
    ) -> None:
        self._markers = markers
        self._inside = inside
        self._upper = upper
        self._lowers = lowers
        self._skip = skip
        self.deleted: list[str] = []

    def add(self, archive: tarfile.TarFile, directory: str, *, opaque: bool) -> None:
        pending = [(directory, opaque)]
        while pending:
            directory, opaque = pending.pop()
            present = set()
            with os.scandir(f"{self._upper}/{directory}") as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                path = posixpath.join(directory, entry.name)
                present.add(entry.name)
                if path in self._skip:
                    continue
                hidden = _hidden(entry, markers=self._markers)
                if hidden == whiteouts.OPAQUE_FILE:
                    opaque = True
                elif hidden:
                    self.deleted.append(posixpath.join(directory, hidden))
                else:
                    self._add_entry(archive, entry, path)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((path, opaque or _is_opaque(entry.path)))
            if opaque:
                self._hide_lower(directory, present)

    def _add_entry(self, archive: tarfile.TarFile, entry: os.DirEntry[str], path: str) -> None:
        if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
            return  # its process makes it anew
        info = archive.gettarinfo(entry.path, path)
        info.pax_headers = dict(_xattrs(entry.path))
        if self._inside is not None:
            info.uid, info.gid = self._inside.uid(info.uid), self._inside.gid(info.gid)
        if info.isreg():
            with open(entry.path, "rb") as file:
                archive.addfile(info, file)
        else:
            archive.addfile(info)

    def _hide_lower(self, directory: str, present: set[str]) -> None:
        names: set[str] = set()
        for lower in self._lowers:
            try:
                names.update(os.listdir(f"{lower}/{directory}"))
            except (FileNotFoundError, NotADirectoryError):
                continue
        gone = (posixpath.join(directory, name) for name in sorted(names - present))
        self.deleted.extend(path for path in gone if path not in self._skip)


def _hidden(entry: os.DirEntry[str], *, markers: bool) -> str:
    """The name that an entry hides, in overlayfs's form or as a marker file; empty for content."""
    if markers and entry.name.startswith(whiteouts.PREFIX):
        if entry.name == whiteouts.OPAQUE_FILE:
            return entry.name
        return entry.name.removeprefix(whiteouts.PREFIX)
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return ""
    found = entry.stat(follow_symlinks=False)
    return entry.name if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 else ""


def _is_opaque(path: str) -> bool:
    return any(name in _OPAQUE_XATTRS for name in os.listxattr(path, follow_symlinks=False))


def _xattrs(path: str) -> Iterator[tuple[str, str]]:
    """As pax headers; libarchive and GNU tar read them, and tarfile writes any bytes that came by surrogates."""
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(_KEPT_XATTRS) and not name.startswith(_OVERLAYS_OWN):
            yield f"SCHILY.xattr.{name}", os.fsdecode(os.getxattr(path, name, follow_symlinks=False))


def lay_over(root: str, tar: str | None, deleted: Iterable[str], what: str, mappings: IdMappings | None = None) -> None:
    """Extract the tar over the tree at root, then remove what is deleted there; `mappings` as in gather.

    Call it in a thread of its own, whose root this changes for good. Raises InvalidArgument that names `what` for a
    tar that is broken or leads out, OSError for what this host cannot do.
    """
    source = None if tar is None else os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_FS)
        os.chroot(root)
        os.chdir("/")
        os.umask(0o022)
        if source is not None:
            _extract(source, what, mappings)
    finally:
        if source is not None:
            os.close(source)
    for path in filter(None, deleted):
        with suppress(NotADirectoryError):
            files.remove_tree(path)


def _extract(source: int, what: str, mappings: IdMappings | None) -> None:
    try:
        with (
            read.fd_reader(source, format_name="tar", block_size=_BLOCK) as archive,
            extract.new_archive_write_disk(_FLAGS) as disk,
        ):
            for entry in archive:
                pointer = entry._entry_p  # noqa: SLF001 - there is no accessor
                name = spec.inside(os.fsdecode(ffi.entry_pathname(pointer) or b""), what)
                ffi.entry_copy_pathname(pointer, os.fsencode(name or "."))
                if link := ffi.entry_hardlink(pointer):
                    ffi.entry_copy_link(pointer, os.fsencode(spec.inside(os.fsdecode(link), what)))
                if mappings is not None:
                    ffi.entry_set_uid(pointer, mappings.uid(ffi.entry_uid(pointer)))
                    ffi.entry_set_gid(pointer, mappings.gid(ffi.entry_gid(pointer)))
                ffi.write_header(disk, pointer)
                for block in entry.get_blocks(_BLOCK):
                    ffi.write_data(disk, block, len(block))
                ffi.write_finish_entry(disk)
    except ArchiveError as error:
        raise InvalidArgument(f"{what}: {spec.ROOTFS} cannot be extracted: {error}") from error
