"""Root filesystems: overlayfs over a stack of layers (Documentation/filesystems/overlayfs.rst).

Blocks shortly: call it in a thread.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, OperationFailed
from ocishim.linux import libc, mount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PAGE: Final = 4096
_LAYER_BY_LAYER: Final = (6, 5)
"""The first kernel that takes lower directories one by one."""


def mount_overlay(layers: Sequence[str], *, upper: str | None = None, work: str | None = None, target: str) -> None:
    """Mount the layers (lowest first), with a writable one on top or, of two layers or more, read-only.

    Kernels from 6.5 take lower directories one by one, any number of them; before that all must fit a page.
    Raises FailedPrecondition where this host or that filesystem cannot do it.
    """
    # A directory can be in a stack once only. What a repeated layer does lower down, its topmost place does again.
    lowers = list(dict.fromkeys(reversed(layers)))
    try:
        writable = {"upperdir": upper, "workdir": work} if upper and work else {}
        # Asked and not tried: an older kernel takes the option, refuses the whole mount later, and logs an error.
        if _kernel() >= _LAYER_BY_LAYER:
            _mount_by_parts(lowers, writable, target)
        else:
            _mount_at_once(lowers, writable, target)
    except OSError as error:
        raise OperationFailed(f"{target}: overlayfs of {len(lowers)} layers: {error.strerror}") from error


def _kernel() -> tuple[int, int]:
    """The kernel's version, such as (6, 1)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _mount_by_parts(lowers: Sequence[str], writable: Mapping[str, str], target: str) -> None:
    fs = libc.fsopen("overlay")
    try:
        for lower in lowers:
            libc.fsconfig(fs, libc.FSCONFIG_SET_STRING, "lowerdir+", lower)
        for key, value in writable.items():
            libc.fsconfig(fs, libc.FSCONFIG_SET_STRING, key, value)
        libc.fsconfig(fs, libc.FSCONFIG_CMD_CREATE)
        mounted = libc.fsmount(fs)
    finally:
        os.close(fs)
    try:
        libc.move_mount(mounted, target)
    finally:
        os.close(mounted)


def _mount_at_once(lowers: Sequence[str], writable: Mapping[str, str], target: str) -> None:
    with ExitStack() as opened:
        short = []
        for lower in lowers:
            fd = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            # A descriptor's name is a third as long as a layer's, so that three times as many fit.
            short.append(f"/proc/self/fd/{fd}")
        options = ",".join((f"lowerdir={':'.join(short)}", *(f"{key}={value}" for key, value in writable.items())))
        if len(options) >= _PAGE:
            raise FailedPrecondition(
                f"{target}: {len(lowers)} layers do not fit one page of mount options; kernels from 6.5 take more"
            )
        mount.mount("overlay", target, "overlay", data=options)
