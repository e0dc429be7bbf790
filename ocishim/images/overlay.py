"""Root filesystems: overlayfs over a stack of layers (Documentation/filesystems/overlayfs.rst).

Blocks shortly: call it in a thread.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ocishim.effects import effect
from ocishim.errors import FailedPrecondition, OperationFailed
from ocishim.linux import libc, mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PAGE: Final = 4096
_LAYER_BY_LAYER: Final = (6, 5)
"""The first kernel that takes lower directories one by one."""


@effect
def mount_overlay(
    layers: Sequence[str],
    *,
    upper: str | None = None,
    work: str | None = None,
    target: str,
    below: str | None = None,
    userns: str | None = None,
) -> None:
    """Mount the layers (lowest first), with a writable one on top or read-only.

    A single layer without a writable one needs an empty directory below it: overlayfs wants two. Owners in the layers
    are shown as what they are outside the user namespace of the file `userns`, if given; those of the writable layer
    are shown as they are. Kernels from 6.5 take lower directories one by one, any number of them; before that all must
    fit a page. Raises FailedPrecondition where this host or that filesystem cannot do it.
    """
    # A directory can be in a stack once only. What a repeated layer does lower down, its topmost place does again.
    lowers = list(dict.fromkeys(reversed(layers)))
    try:
        writable = {"upperdir": upper, "workdir": work} if upper and work else {}
        with _id_mapped(lowers, target, userns) as shown:
            stack = shown if below is None else [*shown, below]
            # Asked and not tried: an older kernel takes the option, refuses the whole mount later, and logs an error.
            if _kernel() >= _LAYER_BY_LAYER:
                mounted = _mount_by_parts(stack, writable)
            else:
                mounted = _mount_at_once(stack, writable, target)
        try:
            libc.move_mount(mounted, target)
        finally:
            os.close(mounted)
    except OSError as error:
        raise OperationFailed(f"{target}: overlayfs of {len(lowers)} layers: {error.strerror}") from error


@contextmanager
def _id_mapped(lowers: Sequence[str], target: str, userns: str | None) -> Iterator[Sequence[str]]:
    """The layers as they are seen through one id-mapped mount of the directory that holds them all.

    overlayfs keeps mounts of its own of what it is given, so that this one goes at once. It is in the way of nobody
    meanwhile: it lies where the result is to be. Kernels before 6.15 take no layer of a mount that lies nowhere.
    """
    if userns is None:
        yield lowers
        return
    parent = os.path.commonpath([os.path.dirname(lower) for lower in lowers])
    mount.bind_idmapped(parent, target, userns, readonly=True)
    try:
        yield [f"{target}/{os.path.relpath(lower, parent)}" for lower in lowers]
    finally:
        mount.unmount(target)


def _kernel() -> tuple[int, int]:
    """The kernel's version, such as (6, 1)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _mount_by_parts(lowers: Sequence[str], writable: Mapping[str, str]) -> int:
    """A descriptor of the mount."""
    fs = libc.fsopen("overlay")
    try:
        for lower in lowers:
            libc.fsconfig(fs, libc.FSCONFIG_SET_STRING, "lowerdir+", lower)
        for key, value in writable.items():
            libc.fsconfig(fs, libc.FSCONFIG_SET_STRING, key, value)
        libc.fsconfig(fs, libc.FSCONFIG_CMD_CREATE)
        return libc.fsmount(fs)
    finally:
        os.close(fs)


def _mount_at_once(lowers: Sequence[str], writable: Mapping[str, str], target: str) -> int:
    """A descriptor of the mount, which mount(2) has to put somewhere first: target, at which nothing of it stays."""
    with ExitStack() as opened:
        short = []
        for lower in lowers:
            fd = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            # A descriptor's name is much shorter than a layer's, so that more fit. The thread's own: its descriptors
            # need not be the process's.
            short.append(f"/proc/thread-self/fd/{fd}")
        options = ",".join((f"lowerdir={':'.join(short)}", *(f"{key}={value}" for key, value in writable.items())))
        if len(options) >= _PAGE:
            raise FailedPrecondition(
                f"{target}: {len(lowers)} layers do not fit one page of mount options; kernels from 6.5 take more"
            )
        mount.mount("overlay", target, "overlay", data=options)
    try:
        return libc.open_tree(libc.AT_FDCWD, target, libc.OPEN_TREE_CLONE)
    finally:
        mount.unmount(target)
