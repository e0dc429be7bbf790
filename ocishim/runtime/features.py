"""What each runtime handler can do here: what its runtime says of itself, and what the kernel answers when tried."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from ocishim.errors import OcishimError
from ocishim.linux import mount, process, userns
from ocishim.spec.features import Features, LinuxFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.runtime.choice import Runtimes
    from ocishim.runtime.oci import OciRuntime

_RECURSIVE_READONLY: Final = "rro"
_CRUN: Final = re.compile(r"^crun version (\d+)\.(\d+)")
_CRUN_RECURSIVE: Final = (1, 4)
"""The first crun with recursive mount options, which also opens mounts before it enters a user namespace."""


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    """What pods of one handler can have."""

    user_namespaces: bool
    recursive_read_only_mounts: bool
    told: Features | None
    """The runtime's own words; None from one that has no `features` command and is not known otherwise."""


async def probe(runtimes: Runtimes, state: str) -> Mapping[str, HandlerFeatures]:
    """By handler name, with bundles below `state`. A runtime that gives no sensible answer has none of the features."""
    why = await asyncio.to_thread(userns.refusal, state)
    recursive = await asyncio.to_thread(mount.has_attributes)
    found = await asyncio.gather(*(_told(runtime) for runtime in runtimes.by_name.values()))
    return {
        name: judge(told, userns=not why, recursive=recursive)
        for name, told in zip(runtimes.by_name, found, strict=True)
    }


def judge(told: Features | None, *, userns: bool, recursive: bool) -> HandlerFeatures:
    """Both runtime and kernel must be able to; ids of mounts are mapped by the server, whatever the runtime can."""
    namespaces = (told.linux and told.linux.namespaces) or () if told else ()
    options = (told.mount_options or ()) if told else ()
    return HandlerFeatures(
        user_namespaces=userns and "user" in namespaces,
        recursive_read_only_mounts=recursive and _RECURSIVE_READONLY in options,
        told=told,
    )


async def _told(runtime: OciRuntime) -> Features | None:
    try:
        what = f"features of {runtime.name}"
        answer = await process.run([runtime.path, "features"], what=what, within=runtime.timeout)
        if answer.returncode == 0:
            return Features.model_validate_json(answer.stdout)
        answer = await process.run([runtime.path, "--version"], what=what, within=runtime.timeout)
    except (OcishimError, ValidationError):
        return None
    return by_version(answer.stdout.decode("utf-8", "replace"))


def by_version(text: str) -> Features | None:
    """What is known of a crun that is too old to tell (before 1.8.6), by the output of `crun --version`."""
    found = _CRUN.match(text)
    if found is None:
        return None
    recent = (int(found[1]), int(found[2])) >= _CRUN_RECURSIVE
    namespaces = ("cgroup", "ipc", "mount", "network", "pid", "user", "uts") if recent else None
    options = (_RECURSIVE_READONLY,) if recent else None
    return Features(mount_options=options, linux=LinuxFeatures(namespaces=namespaces))
