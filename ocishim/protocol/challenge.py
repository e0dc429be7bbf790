"""What a registry wants to be shown: the challenges of a WWW-Authenticate header (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

LONGEST: Final = 16 << 10
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a pattern, no secret
_SEPARATORS: Final = re.compile(r"[ \t,]*")
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[ \t,]|\Z)")
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[ \t]*(?:,|\Z))', re.DOTALL
)
_TOKEN68: Final = re.compile(r"([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|\Z))")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in: its scheme in lower case, its parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(header: str) -> list[Challenge]:
    """The challenges in their order. Raises ValueError where the header is none or longer than LONGEST.

    A scheme may stand alone, carry parameters, or one bare token, which is dropped: no registry uses it.
    """
    if len(header) > LONGEST:
        raise ValueError(f"a challenge of {len(header)} characters")
    found: list[Challenge] = []
    position = _skip(header, 0)
    while position < len(header):
        # A parameter belongs to the scheme before it; what is no parameter begins a scheme of its own.
        if found and (parameter := _PARAMETER.match(header, position)):
            name, quoted, bare = parameter.groups()
            value = bare if quoted is None else _ESCAPE.sub(r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
            position = parameter.end()
        elif scheme := _SCHEME.match(header, position):
            found.append(Challenge(scheme[1].lower()))
            position = _after_scheme(header, scheme.end())
        else:
            raise ValueError(f"not a challenge: {header[position : position + 40]!r}")
        position = _skip(header, position)
    return found


def _after_scheme(header: str, position: int) -> int:
    if header[position : position + 1] == ",":
        return position
    position = _skip(header, position)
    if _PARAMETER.match(header, position):
        return position
    token68 = _TOKEN68.match(header, position)
    # `Negotiate, Basic`: what follows a comma is no token of the scheme before it.
    if token68 and "," not in header[header.rfind(" ", 0, position) : position]:
        return token68.end()
    return position


def _skip(header: str, position: int) -> int:
    match = _SEPARATORS.match(header, position)
    return match.end() if match else position
