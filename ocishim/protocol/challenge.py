"""WWW-Authenticate: what a registry wants before it answers (RFC 9110 section 11, distribution's token spec)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'\s*,?\s*({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|{_WORD})')
_SCHEME: Final = re.compile(rf"\s*,?\s*({_WORD})(?=\s+{_WORD}\s*=|\s*,|\s*$)")
_LONGEST: Final = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate."""

    scheme: str
    """In lower case: basic, bearer, …"""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""


def parse(header: str) -> list[Challenge]:
    """All challenges of a header; what cannot be understood ends it, and is no error."""
    header = header[:_LONGEST]
    found: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while pair := _PARAMETER.match(header, position):
            parameters[pair[1].lower()] = _unquoted(pair[2])
            position = pair.end()
        found.append(Challenge(match[1].lower(), parameters))
    return found


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
