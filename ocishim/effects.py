"""The seam that every effect on the host passes, so that a test can make one fail, stall, or end the server beside it.

An effect is what a crash could leave half done: a file written, a mount, a process started, a layer renamed. Nothing in
the server sets a watcher, and without one the seam costs a comparison.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


class Watcher(Protocol):
    """What looks on."""

    def before(self, effect: str, arguments: tuple[object, ...]) -> float:
        """Called where the effect is about to happen; may raise in its stead. Returns seconds to stall."""

    def after(self, effect: str, arguments: tuple[object, ...]) -> None:
        """Called when it has happened."""


class _Seam:
    watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Have all effects of this process watched: one seam for one process, as its effects are on one host."""
    _Seam.watcher = watcher


def effect(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates what has an effect and blocks."""
    name = _name(function)

    @functools.wraps(function)
    def seen(*args: P.args, **kwargs: P.kwargs) -> T:
        watcher = _Seam.watcher
        if watcher is None:
            return function(*args, **kwargs)
        arguments = (*args, *kwargs.values())
        if stall := watcher.before(name, arguments):
            time.sleep(stall)
        result = function(*args, **kwargs)
        watcher.after(name, arguments)
        return result

    return seen


def async_effect(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorates what has an effect and is awaited."""
    name = _name(function)

    @functools.wraps(function)
    async def seen(*args: P.args, **kwargs: P.kwargs) -> T:
        watcher = _Seam.watcher
        if watcher is None:
            return await function(*args, **kwargs)
        arguments = (*args, *kwargs.values())
        if stall := watcher.before(name, arguments):
            await asyncio.sleep(stall)
        result = await function(*args, **kwargs)
        watcher.after(name, arguments)
        return result

    return seen


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__.strip('_')}"
