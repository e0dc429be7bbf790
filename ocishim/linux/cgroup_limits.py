"""Limits written to a cgroup that exists: all of them, or none where the kernel refuses one."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, InvalidArgument, OcishimError, OperationFailed
from ocishim.linux import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ocishim.translate.limits import Write

log = logging.getLogger(__name__)

_NO_VALUE: Final = (errno.EINVAL, errno.ERANGE, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EOPNOTSUPP)
_GONE: Final = (errno.ENOENT, errno.ENODEV)
_USAGE: Final = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}


def apply(path: str, writes: Sequence[Write], root: str = cgroup.ROOT) -> dict[str, str]:
    """Write all values, or put back what was there; returns the former content of the files, for `restore`.

    Raises FailedPrecondition where the cgroup is gone, lacks a controller or its processes use more than a new
    limit, InvalidArgument for a value that the kernel does not take. Blocks while the kernel reclaims memory.
    """
    targets = [(_file(path, write, root), write.value) for write in writes]
    before = {file: _read(path, file) for file, _ in targets}
    try:
        for file, value in targets:
            _must_fit(path, file, value)
        if failures := _write_all(targets):
            raise next(iter(failures.values()))
    except OSError as error:
        restore(before)
        raise _explained(path, error, dict(targets)) from error
    except OcishimError:
        restore(before)
        raise
    return before


def restore(before: dict[str, str]) -> None:
    """Put the former content of files back; what the kernel does not take any more is logged."""
    changed = [(file, content) for file, content in before.items() if _differs(file, content)]
    for file, error in _write_all(changed).items():
        log.error("%s: its former limit cannot be put back: %s", file, error.strerror)


def read(path: str, controller: str, file: str, root: str = cgroup.ROOT) -> str:
    """The content of a cgroup's file, empty where it cannot be read."""
    base = cgroup.hierarchy_of(controller, root)
    try:
        return _content(f"{cgroup.below(base, path)}/{file}") if base else ""
    except OSError:
        return ""


def _write_all(targets: Iterable[tuple[str, str]]) -> dict[str, OSError]:
    """Write in the order that the kernel takes: memory may not pass memory and swap, nor a cpuset its parent's.

    What is refused is tried again after the others, until a round brings nothing; returns what stays refused.
    """
    pending = list(targets)
    while pending:
        failures: dict[str, OSError] = {}
        for file, value in pending:
            try:
                cgroup.write(file, value or "\n")
            except OSError as error:
                failures[file] = error
        if len(failures) == len(pending):
            return failures
        pending = [(file, value) for file, value in pending if file in failures]
    return {}


def _file(path: str, write: Write, root: str) -> str:
    base = cgroup.hierarchy_of(write.controller, root)
    if base is None:
        raise FailedPrecondition(f"{write.file} cannot be set: this host has no cgroup controller {write.controller!r}")
    return f"{cgroup.below(base, path)}/{write.file}"


def _read(path: str, file: str) -> str:
    try:
        return _content(file)
    except OSError as error:
        if error.errno in _GONE and os.path.isdir(os.path.dirname(file)):
            raise InvalidArgument(f"cgroup {path}: this kernel has no {os.path.basename(file)} there") from error
        raise _explained(path, error, {}) from error


def _content(file: str) -> str:
    with open(file, encoding="ascii", errors="replace") as opened:
        return opened.read().strip()


def _differs(file: str, content: str) -> bool:
    try:
        return _content(file) != content
    except OSError:
        return False  # gone with its cgroup


def _must_fit(path: str, file: str, value: str) -> None:
    """cgroup v2 would kill to meet a limit below what is used; v1 reclaims what it can, and then refuses it."""
    if os.path.basename(file) != "memory.max" or not value.isdecimal():
        return
    excess = _in_use(file) - int(value)
    if excess > 0:
        with suppress(OSError):  # as much as can be, if the kernel has it (since 5.19)
            cgroup.write(f"{os.path.dirname(file)}/memory.reclaim", str(excess))
    if (used := _in_use(file)) > int(value):
        raise FailedPrecondition(f"cgroup {path}: memory.max cannot become {value!r}: its processes use {used} bytes")


def _in_use(file: str) -> int:
    used = _content(f"{os.path.dirname(file)}/memory.current")
    return int(used) if used.isdecimal() else 0


def _explained(path: str, error: OSError, values: dict[str, str]) -> OcishimError:
    file = str(error.filename or path)
    what = f"cgroup {path}: {os.path.basename(file)}"
    if value := values.get(file):
        what += f" cannot become {value!r}"
    if error.errno in _GONE:
        return FailedPrecondition(f"{what}: the cgroup is gone ({error.strerror})")
    if error.errno == errno.EBUSY:
        return FailedPrecondition(f"{what}: {error.strerror}{_used(file)}")
    if error.errno in _NO_VALUE:
        return InvalidArgument(f"{what}: {error.strerror}")
    return OperationFailed(f"{what}: {error.strerror}")


def _used(file: str) -> str:
    name = _USAGE.get(os.path.basename(file))
    try:
        return f"; {name} is {_content(f'{os.path.dirname(file)}/{name}')}" if name else ""
    except OSError:
        return ""
