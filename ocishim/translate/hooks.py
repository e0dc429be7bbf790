"""Which of the operator's hooks run for a container (oci-hooks(5))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ocishim.spec import runtime as spec
from ocishim.translate.cdi import add_hook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.spec.hooks import HookFile, When


def with_hooks(
    base: spec.RuntimeSpec,
    files: Mapping[str, HookFile],
    annotations: Mapping[str, str],
    *,
    has_bind_mounts: bool,
) -> spec.RuntimeSpec:
    """The spec with the hooks that hold for it, in the order of their files' names.

    `annotations` are all that the pod and the container have, whether or not they reach the runtime.
    """
    hooks = base.hooks
    for name in sorted(files):
        file = files[name]
        if not _holds(file.when, base.process.args, annotations, has_bind_mounts=has_bind_mounts):
            continue
        program = file.hook
        for stage in file.stages:
            hook = spec.Hook(
                path=program.path, args=program.args or None, env=program.env or None, timeout=program.timeout
            )
            hooks = add_hook(hooks, stage, hook)
    return base.model_copy(update={"hooks": hooks})


def _holds(when: When, args: list[str], annotations: Mapping[str, str], *, has_bind_mounts: bool) -> bool:
    conditions: list[bool] = []
    if when.always is not None:
        conditions.append(when.always)
    if when.has_bind_mounts is not None:
        conditions.append(when.has_bind_mounts == has_bind_mounts)
    if when.commands:
        conditions.append(any(re.search(pattern, args[0]) for pattern in when.commands))
    for key, value in when.annotations.items():
        conditions.append(
            any(re.search(key, name) and re.search(value, content) for name, content in annotations.items())
        )
    return bool(conditions) and all(conditions)
