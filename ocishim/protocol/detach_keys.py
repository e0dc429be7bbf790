"""The keys that leave a session: found in what is typed, however the terminal cuts it into pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT: Final = "ctrl-p,ctrl-q"
_CONTROL: Final = "ctrl-"
_CONTROLLED: Final = "@abcdefghijklmnopqrstuvwxyz[\\]^_"
"""ctrl-X sends X's place in this row (ASCII)."""


def parse(text: str) -> bytes:
    """The bytes of keys such as `ctrl-p,ctrl-q` or `~,.`; none for an empty text. Raises ValueError."""
    return b"".join(map(_key, text.split(","))) if text else b""


def _key(name: str) -> bytes:
    if len(name) == 1 and name.isascii():
        return name.encode()
    letter = name.removeprefix(_CONTROL).lower()
    if name.startswith(_CONTROL) and len(letter) == 1 and letter in _CONTROLLED:
        return bytes([_CONTROLLED.index(letter)])
    raise ValueError(f"{name!r} is neither one ASCII character nor ctrl- and one of {_CONTROLLED}")


@dataclass(frozen=True, slots=True)
class Typed:
    """What to send on, and whether the keys were among it: what came after them is dropped."""

    data: bytes
    detached: bool = False


class DetachKeys:
    """Typed bytes in, bytes to send on out.

    Keys that may be the beginning of the sequence are held back until the next one decides.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        """How many bytes of the sequence's beginning have been typed."""

    def feed(self, data: bytes) -> Typed:
        """Take what was typed; nothing may be fed once the answer says detached."""
        if not self._keys:
            return Typed(data)
        held = self._keys[: self._held] + data
        found = held.find(self._keys)
        if found >= 0:
            return Typed(held[:found], detached=True)
        self._held = next(n for n in range(len(self._keys) - 1, -1, -1) if held.endswith(self._keys[:n]))
        return Typed(held[: len(held) - self._held])

    def finish(self) -> bytes:
        """What was held back, at the end of the input."""
        held, self._held = self._keys[: self._held], 0
        return held
