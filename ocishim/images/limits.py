"""How much a layer may bring before it is taken for a bomb."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one layer may bring: a few kilobytes of a bomb unpack to a full disk."""

    size: int = 1 << 38
    """Bytes of its tar, and of its files."""
    entries: int = 5_000_000
    keep_free: int = 0
    """Bytes that unpacking leaves free on the filesystem."""
