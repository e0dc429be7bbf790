"""Checkpoint archives: written whole or not at all, and read as what a stranger may have written.

Blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from libarchive import read
from libarchive.exception import ArchiveError

from ocishim.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from ocishim.linux import files
from ocishim.spec import checkpoint as spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from libarchive.entry import ArchiveEntry

_BLOCK: Final = 256 << 10
_MEMBERS: Final = (
    spec.CONFIG,
    spec.SPEC,
    spec.BIND_MOUNTS,
    spec.DELETED,
    spec.DUMP_LOG,
    spec.STATS,
    spec.ROOTFS,
    spec.IMAGES,
)
"""In this order: who only asks what it is of need not read the memory of its processes."""
_WANTED: Final = (spec.CONFIG, spec.SPEC, spec.DELETED, spec.ROOTFS)
_THE_ARCHIVES: Final = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Errors of the disk that say something of the archive."""
_MOST_ENTRIES: Final = 100_000


def write(directory: str, target: str, log: str) -> None:
    """Make the archive of a directory that holds what a checkpoint does, and of the container's log (empty: none).

    It is readable by root only: it holds all memory of the processes. Raises OSError.
    """
    with (
        files.replacing(target) as fd,
        open(fd, "wb", closefd=False) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _MEMBERS:
            if os.path.lexists(f"{directory}/{name}"):
                archive.add(f"{directory}/{name}", name)
        if log and os.path.isfile(log):
            archive.add(log, spec.LOG, recursive=False)


def dumps(path: str) -> spec.Dumps:
    """What an archive is of. Raises NotFound, or InvalidArgument for what is no checkpoint."""
    found: dict[str, bytes] = {}
    for name, entry in _entries(path):
        if name in (spec.CONFIG, spec.SPEC) and name not in found:
            with _judged(path, name):
                found[name] = _document(entry)
            if len(found) == len((spec.CONFIG, spec.SPEC)):
                break
    return spec.parse_dumps(found.get(spec.CONFIG), found.get(spec.SPEC), path)


def unpack(path: str, directory: str, *, keep_free: int) -> None:
    """Extract what restoring needs into an empty directory. Nothing else is: no links, no devices, no other names.

    Raises InvalidArgument for a broken or hostile archive, ResourceExhausted where it does not fit.
    """
    for name, entry in _entries(path):
        if name != spec.IMAGES and not name.startswith(f"{spec.IMAGES}/") and name not in _WANTED:
            continue
        with _judged(path, name):
            _take(entry, name, directory, keep_free)


def _take(entry: ArchiveEntry, name: str, directory: str, keep_free: int) -> None:
    target = f"{directory}/{name}"
    if entry.isdir:
        os.makedirs(target, 0o700, exist_ok=True)
    elif entry.isreg and not entry.islnk and name != spec.IMAGES:
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        _copy(entry, target, keep_free)
    else:
        raise InvalidArgument("neither a file nor a directory")


@contextmanager
def _judged(path: str, name: str) -> Iterator[None]:
    """What is wrong with an entry, in the archive's terms."""
    what = f"{path}: {name!r}"
    try:
        yield
    except (InvalidArgument, ArchiveError) as error:
        raise InvalidArgument(f"{what}: {error}") from error
    except ResourceExhausted as error:
        raise ResourceExhausted(f"{what}: {error}") from error
    except OSError as error:
        if error.errno not in _THE_ARCHIVES:
            raise
        raise InvalidArgument(f"{what}: {error.strerror}, by an earlier entry or its name") from error


def copy_tree(source: str, directory: str) -> None:
    """The same from a layer of an image, whose files lie there. Raises InvalidArgument as `unpack` does."""
    for name in _WANTED:
        _copy_file(f"{source}/{name}", f"{directory}/{name}")
    images = f"{source}/{spec.IMAGES}"
    if os.path.isdir(images) and not os.path.islink(images):
        os.mkdir(f"{directory}/{spec.IMAGES}", 0o700)
        for name in os.listdir(images):
            _copy_file(f"{images}/{name}", f"{directory}/{spec.IMAGES}/{name}")


def tree_dumps(source: str, what: str) -> spec.Dumps:
    """What a checkpoint image is of, from the layer that holds it."""
    return spec.parse_dumps(_read(f"{source}/{spec.CONFIG}"), _read(f"{source}/{spec.SPEC}"), what)


def deleted(directory: str, what: str) -> list[str]:
    """What the container has deleted of its image, by an unpacked checkpoint."""
    content = _read(f"{directory}/{spec.DELETED}")
    return [] if content is None else spec.parse_deleted(content, what)


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(spec.LARGEST_DOCUMENT) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _copy_file(source: str, target: str) -> None:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidArgument(f"{source} is no file of a checkpoint: {error.strerror}") from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{source} is no file of a checkpoint")
        with open(target, "xb") as out:
            while block := file.read(_BLOCK):
                out.write(block)


def _entries(path: str) -> Iterator[tuple[str, ArchiveEntry]]:
    """Names, checked and relative to the top, and entries."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"checkpoint {path} is not there") from error
    except OSError as error:
        raise FailedPrecondition(f"checkpoint {path} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{path} is no checkpoint: not a file")
        with read.fd_reader(fd, format_name="tar", block_size=_BLOCK) as archive:
            for number, entry in enumerate(archive):
                if number == _MOST_ENTRIES:
                    raise InvalidArgument(f"{path} holds more than {_MOST_ENTRIES} entries")
                yield spec.inside(entry.pathname or "", path), entry
    except ArchiveError as error:
        raise InvalidArgument(f"{path} is no whole tar: {error}") from error
    finally:
        os.close(fd)


def _document(entry: ArchiveEntry) -> bytes:
    if not entry.isreg:
        raise InvalidArgument("not a file")
    if (entry.size or 0) > spec.LARGEST_DOCUMENT:
        raise InvalidArgument(f"longer than {spec.LARGEST_DOCUMENT} bytes")
    return b"".join(entry.get_blocks())


def _copy(entry: ArchiveEntry, target: str, keep_free: int) -> None:
    free = os.statvfs(os.path.dirname(target))
    if (entry.size or 0) > free.f_bavail * free.f_frsize - keep_free:
        raise ResourceExhausted(f"its {entry.size} bytes do not fit on the disk")
    with open(target, "xb") as file:
        file.writelines(entry.get_blocks(_BLOCK))
