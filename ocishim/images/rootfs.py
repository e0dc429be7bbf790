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
from ocishim.linux import files, mount, process, userns
from ocishim.translate.userns import IdMappings, IdRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocishim.images.whiteouts import Form

Kind = Literal["overlay", "fuse-overlayfs", "copy"]

_FUSE_TIMEOUT: Final = 30.0
_PROBED_ID: Final = 65536


@dataclass(frozen=True, slots=True)
class LayerStack:
    """Directories of layers, lowest first, and how those hide names of others."""

    paths: tuple[str, ...]
    forms: frozenset[Form]


@dataclass(frozen=True, slots=True)
class Shift:
    """Whose owners a filesystem shows: those of a user namespace instead of the layers' own."""

    mappings: IdMappings
    userns: str
    """The file that the namespace is pinned at."""


@dataclass(frozen=True, slots=True)
class RootFilesystems:
    """How this host makes them."""

    kind: Kind
    why: str = ""
    """What overlayfs answered, where it is not used."""
    program: str = ""
    """fuse-overlayfs."""
    shifts_by_copy: str = ""
    """Why a shifted one is a copy of its own: the kernel's answer to id-mapped layers; empty: it takes them."""

    async def mount(self, stack: LayerStack, *, upper: str, work: str, target: str, shift: Shift | None = None) -> None:
        """Mount a writable root filesystem: upper and work are empty directories on the store's filesystem.

        Raises OperationFailed, FailedPrecondition, or ResourceExhausted where a copy does not fit.
        """
        kind = self.kind_for(stack, shift)
        if kind == "fuse-overlayfs":
            await self._mount_fuse(stack, [f"upperdir={upper}", f"workdir={work}"], target)
        elif kind == "overlay":
            await asyncio.to_thread(
                overlay.mount_overlay,
                stack.paths,
                upper=upper,
                work=work,
                target=target,
                userns=shift.userns if shift else None,
            )
        else:
            await asyncio.to_thread(_copy, stack, upper, target, shift)

    async def mount_readonly(self, stack: LayerStack, *, scratch: str, target: str, shift: Shift | None = None) -> None:
        """Mount layers without a writable one; scratch is an empty directory on the store's filesystem."""
        kind = self.kind_for(stack, shift)
        if kind == "fuse-overlayfs":
            await self._mount_fuse(stack, [], target)
        elif kind == "overlay":
            await asyncio.to_thread(
                overlay.mount_overlay,
                stack.paths,
                target=target,
                below=scratch,
                userns=shift.userns if shift else None,
            )
        else:
            await asyncio.to_thread(_copy, stack, scratch, target, shift)

    def kind_for(self, stack: LayerStack, shift: Shift | None) -> Kind:
        """How a root filesystem of these layers is made."""
        if shift and (self.kind != "overlay" or self.shifts_by_copy):
            return "copy"
        # Layers of a time when the store lay elsewhere: overlayfs would show their marker files.
        return "copy" if self.kind == "overlay" and "files" in stack.forms else self.kind

    async def _mount_fuse(self, stack: LayerStack, options: Sequence[str], target: str) -> None:
        lowers = list(dict.fromkeys(reversed(stack.paths)))
        chosen = ",".join((f"lowerdir={':'.join(lowers)}", *options))
        what = f"{target}: fuse-overlayfs of {len(lowers)} layers"
        done = await process.run([self.program, "-o", chosen, target], what=what, within=_FUSE_TIMEOUT)
        process.check(done, what)


def _copy(stack: LayerStack, upper: str, target: str, shift: Shift | None) -> None:
    flatten.flatten(stack.paths, upper, shift.mappings if shift else None)
    mount.bind(upper, target)


async def choose(directory: str) -> RootFilesystems:
    """Find out what works on the filesystem of a directory."""
    why = await asyncio.to_thread(_try, directory)
    if not why:
        return RootFilesystems("overlay", shifts_by_copy=await asyncio.to_thread(_try_shifted, directory))
    program = shutil.which("fuse-overlayfs")
    if program is not None:
        fuse = RootFilesystems("fuse-overlayfs", why, program)
        if await _try_fuse(fuse, directory):
            return fuse
    return RootFilesystems("copy", why)


def _try_shifted(directory: str) -> str:
    """Why layers cannot be id-mapped below a writable one; empty where they can."""
    scratch = _scratch(directory)
    target = f"{scratch}/target"
    ids = (IdRange(0, _PROBED_ID, 1),)

    def attempt(pid: int) -> None:
        overlay.mount_overlay(
            [f"{scratch}/lower"],
            upper=f"{scratch}/upper",
            work=f"{scratch}/work",
            target=target,
            userns=f"/proc/{pid}/ns/user",
        )

    os.mkdir(f"{scratch}/lower/file")
    try:
        userns.inside(IdMappings(ids, ids), 0, attempt)
        owner = os.stat(f"{target}/file").st_uid
    except (OcishimError, OSError) as error:
        return str(error).removeprefix(f"{target}: ")
    finally:
        _clear(scratch)
    return "" if owner == _PROBED_ID else f"id-mapped layers show uid {owner} instead of {_PROBED_ID}"


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
