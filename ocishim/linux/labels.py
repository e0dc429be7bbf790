"""SELinux labels of files: a tree that a container may write gets the container's own (xattr(7), security.selinux)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from ocishim.effects import effect
from ocishim.errors import InvalidArgument

ATTRIBUTE: Final = "security.selinux"
_NOT_TO_BE_TOUCHED: Final = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin"}
    | {"/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/tmp"}  # noqa: S108 - their names
)
"""Relabelled, they would lock the host's own services out."""


@effect
def relabel(path: str, label: str, field: str, attribute: str = ATTRIBUTE) -> None:
    """Give a file, or a tree, a label. Blocks. A filesystem that has no labels is left as it is.

    Raises InvalidArgument, naming the request's field, for a directory of the host's own.
    """
    if path.rstrip("/") in _NOT_TO_BE_TOUCHED or path == "/":
        raise InvalidArgument(
            f"{field}: {path!r} belongs to the host and is not relabelled; mount a directory below it"
        )
    pending = [path]
    value = label.encode()
    while pending:
        current = pending.pop()
        with suppress(FileNotFoundError):
            try:
                os.setxattr(current, attribute, value, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                return
            if os.path.isdir(current) and not os.path.islink(current):
                pending += [f"{current}/{name}" for name in os.listdir(current)]
