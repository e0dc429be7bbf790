"""Files that are read often and change rarely: parsed once, and again when they are other files or have changed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MOST: Final = 256
"""Files remembered at a time: beyond them the one read first is forgotten."""


class Remembered(Generic[T]):
    """What a parser made of files, by path. Thread-safe: at worst two threads parse the same file once each."""

    def __init__(self, parse: Callable[[bytes, str], T], *, limit: int) -> None:
        """`parse` takes content and path; a file of more than `limit` bytes is refused."""
        self._parse = parse
        self._limit = limit
        self._known: dict[str, tuple[tuple[int, ...], T]] = {}

    def read(self, path: str) -> T:
        """The file's meaning. Blocks. Raises OSError, also for no regular file, and what the parser raises."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{path} is not a regular file")
            identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known = self._known.get(path)
            if known is not None and known[0] == identity:
                return known[1]
            content = file.read(self._limit + 1)
        if len(content) > self._limit:
            raise OSError(f"{path} is longer than {self._limit} bytes")
        value = self._parse(content, path)
        if len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)), None)
        self._known[path] = (identity, value)
        return value
