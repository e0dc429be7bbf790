"""Resource limits of processes, from the operator's settings and what the server itself may set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ocishim.spec.runtime import Rlimit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocishim.config import Limit, RlimitSettings
    from ocishim.translate.facts import HostFacts

INFINITY: Final = 2**64 - 1
"""RLIM_INFINITY (getrlimit(2))."""


def rlimits(settings: Mapping[str, RlimitSettings], host: HostFacts) -> list[Rlimit] | None:
    """The limits of a container's processes; None: the server's own.

    Without CAP_SYS_RESOURCE no process can have a higher hard limit than the server: it is lowered to that.
    """
    found = []
    for name, limit in settings.items():
        hard = _number(limit.hard)
        if not host.may_raise_limits:
            hard = min(hard, host.rlimits.get(name, INFINITY))
        found.append(Rlimit(type=f"RLIMIT_{name.upper()}", hard=hard, soft=min(_number(limit.soft), hard)))
    return found or None


def _number(limit: Limit) -> int:
    return limit if isinstance(limit, int) else INFINITY
