"""How a layer on disk says that it hides names of the layers below: in overlayfs's form, or by marker files.

overlayfs wants a character device 0:0 for a name and an xattr for an opaque directory (its documentation, "whiteouts
and opaque directories"). Where the store's filesystem takes neither, as another overlayfs does, markers are files
named as in the image-spec (layer.md); fuse-overlayfs and flatten.py read both.
"""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import suppress
from typing import Final, Literal

Form = Literal["overlay", "files"]

PREFIX: Final = ".wh."
OPAQUE_FILE: Final = ".wh..wh..opq"
OPAQUE_XATTR: Final = "trusted.overlay.opaque"


def form_for(directory: str) -> Form:
    """The form that the filesystem of a directory takes: overlayfs's wherever it can be."""
    probe = f"{directory}/whiteout-probe-{os.getpid()}"
    try:
        os.mkdir(probe, 0o700)
        try:
            os.setxattr(probe, OPAQUE_XATTR, b"y")
            hide(f"{probe}/name", "overlay")
            unhide(f"{probe}/name", "overlay")
        finally:
            os.rmdir(probe)
    except OSError:
        return "files"
    return "overlay"


def hide(path: str, form: Form) -> None:
    """Hide what the layers below have at path, where this layer has nothing."""
    if form == "overlay":
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    else:
        os.close(os.open(_marker(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def unhide(path: str, form: Form) -> bool:
    """Take the mark away; False where it was gone with its directory."""
    try:
        os.unlink(path if form == "overlay" else _marker(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_opaque(directory: str, form: Form) -> None:
    """Hide all that the layers below have in a directory; content where something else took its place."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if form == "overlay":
            os.setxattr(directory, OPAQUE_XATTR, b"y", follow_symlinks=False)
        elif stat.S_ISDIR(os.lstat(directory).st_mode):
            fd = os.open(f"{directory}/{OPAQUE_FILE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(fd)


def _marker(path: str) -> str:
    directory, name = posixpath.split(path)
    return posixpath.join(directory, PREFIX + name)
