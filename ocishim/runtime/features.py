"""What pods of each runtime handler can have here: what its runtime can, and what the kernel answers when tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocishim.linux import mount, userns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.runtime.abilities import Abilities
    from ocishim.runtime.choice import Runtimes


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    """As Status reports them."""

    user_namespaces: bool
    recursive_read_only_mounts: bool


def probe(runtimes: Runtimes, state: str) -> Mapping[str, HandlerFeatures]:
    """By handler name, with bundles below `state`. Blocks shortly."""
    why = userns.refusal(state)
    recursive = mount.has_attributes()
    return {
        # Root of a virtual machine is no user of this kernel's.
        name: judge(runtime.abilities, userns=not why and not runtime.is_vm, recursive=recursive)
        for name, runtime in runtimes.by_name.items()
    }


def judge(abilities: Abilities, *, userns: bool, recursive: bool) -> HandlerFeatures:
    """Both runtime and kernel must be able to; ids of mounts are mapped by the server, whatever the runtime can."""
    return HandlerFeatures(
        user_namespaces=userns and abilities.user_namespaces,
        recursive_read_only_mounts=recursive and abilities.recursive_readonly,
    )
