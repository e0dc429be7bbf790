"""Checks of single request fields, each naming the field's path and the value in its error."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_NAME = 253
LONGEST_COMPONENT = 255
LONGEST_PATH = 4095
"""NAME_MAX and PATH_MAX less the NUL (limits.h)."""
LONGEST_STRING = 131071
"""Bytes of one argument or variable of a program, less the NUL (execve(2))."""
LARGEST_ID = 2**31 - 1
_SHOWN = 80


def refuse(path: str, value: object, why: str) -> InvalidArgument:
    """The error for a field: raise what this returns."""
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return InvalidArgument(f"{path}: {shown} {why}")


def text(path: str, value: str, *, newline: bool = False) -> None:
    """No NUL anywhere, and no newline unless it may be there."""
    if "\0" in value:
        raise refuse(path, value, "holds a NUL character")
    if not newline and ("\n" in value or "\r" in value):
        raise refuse(path, value, "holds a line break")


def name(path: str, value: str) -> None:
    """A name that is used as one path component."""
    if not value:
        raise InvalidArgument(f"{path} is required")
    text(path, value)
    if len(value) > LONGEST_NAME:
        raise refuse(path, value, f"is longer than {LONGEST_NAME} characters")
    if "/" in value or value in (".", ".."):
        raise refuse(path, value, "is not a plain name")


def absolute(path: str, value: str) -> None:
    """An absolute path without `..`."""
    text(path, value)
    if not value.startswith("/"):
        raise refuse(path, value, "is not an absolute path")
    if ".." in value.split("/"):
        raise refuse(path, value, "must not hold '..'")
    _fits(path, value)


def beneath(path: str, value: str) -> None:
    """A relative path that stays below where it starts."""
    text(path, value)
    if value.startswith("/") or posixpath.normpath(value).split("/")[0] == "..":
        raise refuse(path, value, "leaves its directory")
    _fits(path, value)


def _fits(path: str, value: str) -> None:
    if len(value.encode()) > LONGEST_PATH:
        raise refuse(path, value, f"is longer than {LONGEST_PATH} bytes")
    if any(len(part.encode()) > LONGEST_COMPONENT for part in value.split("/")):
        raise refuse(path, value, f"has a part longer than {LONGEST_COMPONENT} bytes")


def word(path: str, value: str, *, longest: int = LONGEST_NAME) -> None:
    """Something printed that stands between blanks in a file: not empty, no white space, no control characters."""
    if not value or any(character.isspace() or not character.isprintable() for character in value):
        raise refuse(path, value, "is empty, or holds white space or control characters")
    if len(value) > longest:
        raise refuse(path, value, f"is longer than {longest} characters")


def notes(path: str, values: Mapping[str, str]) -> None:
    """Labels and annotations: they come back unaltered, and go where a NUL would end them."""
    for key, value in values.items():
        if not key:
            raise refuse(path, key, "is no key")
        text(path, key)
        text(f"{path}[{key}]", value, newline=True)


def argument(path: str, value: str) -> None:
    """What a program is given, or a variable of its environment."""
    text(path, value, newline=True)
    if len(value.encode()) > LONGEST_STRING:
        raise refuse(path, value, f"is longer than {LONGEST_STRING} bytes")


def bounded(path: str, value: int, low: int, high: int) -> None:
    """A number in a range."""
    if not low <= value <= high:
        raise refuse(path, value, f"is not between {low} and {high}")


def known(path: str, value: int, names: Mapping[str, object]) -> None:
    """A value of an enum that the schema knows."""
    if value not in {int(member) for member in names.values()}:  # type: ignore[call-overload] # IntEnum members
        raise refuse(path, int(value), f"is none of {', '.join(names)}")
