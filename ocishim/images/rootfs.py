"""Root filesystems and image volumes on this host: by overlayfs, else by fuse-overlayfs, else as a copy.

overlayfs cannot have its writable layer on every filesystem, another overlayfs among those, which is what a CI job in a
container has. What works is found out once, at start, by trying it on the store's own filesystem.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ocishim.errors import OcishimError
from ocishim.images import flatten, overlay
from ocishim.linux import files, mount, process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.images.whiteouts import Form

Kind = Literal["overlay", "fuse-overlayfs", "copy"]

_FUSE_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class LayerStack:
    """Directories of layers, lowest first, and how those hide names of others."""

    paths: tuple[str, ...]
    forms: frozenset[Form]


@dataclass(frozen=True, slots=True)
class RootFilesystems:
    """How this host makes them."""

    kind: Kind
    why: str = ""
    """What overlayfs answered, where it is not used."""
    program: str = ""
    """fuse-overlayfs."""

    async def mount(self, stack: LayerStack, *, upper: str, work: str, target: str) -> None:
        """Mount a writable root filesystem: upper and work are empty directories on the store's filesystem.

        Raises OperationFailed, FailedPrecondition, or ResourceExhausted where a copy does not fit.
        """
        kind = self._kind_for(stack)
        if kind == "fuse-overlayfs":
            await self._mount_fuse(stack, [f"upperdir={upper}", f"workdir={work}"], target)
        elif kind == "overlay":
            await asyncio.to_thread(overlay.mount_overlay, stack.paths, upper=upper, work=work, target=target)
        else:
            await asyncio.to_thread(_copy, stack, upper, target)

    async def mount_readonly(self, stack: LayerStack, *, scratch: str, target: str) -> None:
        """Mount layers without a writable one; scratch is an empty directory on the store's filesystem."""
        kind = self._kind_for(stack)
        if kind == "fuse-overlayfs":
            await self._mount_fuse(stack, [], target)
        elif kind == "overlay":
            # overlayfs without a writable layer wants two others.
            await asyncio.to_thread(overlay.mount_overlay, [scratch, *stack.paths], target=target)
        else:
            await asyncio.to_thread(_copy, stack, scratch, target)

    def _kind_for(self, stack: LayerStack) -> Kind:
        # Layers of a time when the store lay elsewhere: overlayfs would show their marker files.
        return "copy" if self.kind == "overlay" and "files" in stack.forms else self.kind

    async def _mount_fuse(self, stack: LayerStack, options: Sequence[str], target: str) -> None:
        lowers = list(dict.fromkeys(reversed(stack.paths)))
        chosen = ",".join((f"lowerdir={':'.join(lowers)}", *options))
        what = f"{target}: fuse-overlayfs of {len(lowers)} layers"
        done = await process.run([self.program, "-o", chosen, target], what=what, within=_FUSE_TIMEOUT)
        process.check(done, what)


def _copy(stack: LayerStack, upper: str, target: str) -> None:
    flatten.flatten(stack.paths, upper)
    mount.bind(upper, target)


async def choose(directory: str) -> RootFilesystems:
    """Find out what works on the filesystem of a directory."""
    why = await asyncio.to_thread(_try, directory)
    if not why:
        return RootFilesystems("overlay")
    program = shutil.which("fuse-overlayfs")
    if program is not None:
        fuse = RootFilesystems("fuse-overlayfs", why, program)
        if await _try_fuse(fuse, directory):
            return fuse
    return RootFilesystems("copy", why)


def _scratch(directory: str) -> str:
    scratch = tempfile.mkdtemp(prefix=".rootfs-probe-", dir=directory)
    for name in ("lower", "upper", "work", "target"):
        os.mkdir(f"{scratch}/{name}")
    return scratch


def _try(directory: str) -> str:
    scratch = _scratch(directory)
    target = f"{scratch}/target"
    try:
        overlay.mount_overlay([f"{scratch}/lower"], upper=f"{scratch}/upper", work=f"{scratch}/work", target=target)
        mount.unmount(target)
    except OcishimError as error:
        # Without the probe's own name, which says nothing to anybody.
        return str(error).removeprefix(f"{target}: ")
    finally:
        files.remove_tree(scratch)
    return ""


async def _try_fuse(fuse: RootFilesystems, directory: str) -> bool:
    scratch = await asyncio.to_thread(_scratch, directory)
    target = f"{scratch}/target"
    stack = LayerStack((f"{scratch}/lower",), frozenset())
    try:
        await fuse.mount(stack, upper=f"{scratch}/upper", work=f"{scratch}/work", target=target)
    except OcishimError:
        return False
    else:
        return True
    finally:
        await asyncio.to_thread(_clear, scratch)


def _clear(scratch: str) -> None:
    mount.unmount_all(f"{scratch}/target")
    files.remove_tree(scratch)
