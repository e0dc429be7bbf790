"""How far an operation is, for whoever looks: its parts with their bytes, sampled, so that nobody holds it up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from ocishim.spec.image import Descriptor

_SAMPLED: Final = 0.1
"""Seconds between two looks."""


@dataclass(slots=True)
class Part:
    """A layer, or a file that is written."""

    name: str
    state: str
    size: int
    done: int = 0


class Progress:
    """The parts of one operation, in the order in which they were first heard of."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._changes = 0

    def __call__(self, blob: Descriptor, state: str, size: int = 0, /) -> None:
        """Note what became of a layer, and how many more of its bytes came."""
        self.note(blob.digest, state, size, blob.size)

    def note(self, name: str, state: str, more: int, size: int) -> None:
        """Note what became of a part, and how many more of its bytes are done."""
        part = self._parts.setdefault(name, Part(name, state, size))
        part.state = state
        # A part that is begun again does not go beyond its size.
        part.done = size if state in ("done", "present") else min(part.done + more, size)
        self._changes += 1

    def parts(self) -> list[Part]:
        """All of them."""
        return list(self._parts.values())

    def fetched(self) -> int:
        """Bytes that have come so far, without those that were here already."""
        return sum(part.done for part in self._parts.values() if part.state != "present")

    async def until(self, task: asyncio.Future[Any]) -> AsyncIterator[list[Part]]:
        """The parts whenever some have changed, until the task is done; its result and its failure are the caller's."""
        seen = 0
        while not task.done():
            await asyncio.wait([task], timeout=_SAMPLED)
            if self._changes != seen:
                seen = self._changes
                yield self.parts()
