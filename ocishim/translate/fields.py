"""Checks of single request fields, each naming the field's path and the value in its error."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_NAME = 253
LARGEST_ID = 2**31 - 1


def refuse(path: str, value: object, why: str) -> InvalidArgument:
    """The error for a field: raise what this returns."""
    return InvalidArgument(f"{path}: {value!r} {why}")


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
        raise refuse(path, value[:40] + "…", f"is longer than {LONGEST_NAME} characters")
    if "/" in value or value in (".", ".."):
        raise refuse(path, value, "is not a plain name")


def absolute(path: str, value: str) -> None:
    """An absolute path without `..`."""
    text(path, value)
    if not value.startswith("/"):
        raise refuse(path, value, "is not an absolute path")
    if ".." in value.split("/"):
        raise refuse(path, value, "must not hold '..'")


def beneath(path: str, value: str) -> None:
    """A relative path that stays below where it starts."""
    text(path, value)
    if value.startswith("/") or posixpath.normpath(value).split("/")[0] == "..":
        raise refuse(path, value, "leaves its directory")


def bounded(path: str, value: int, low: int, high: int) -> None:
    """A number in a range."""
    if not low <= value <= high:
        raise refuse(path, value, f"is not between {low} and {high}")


def known(path: str, value: int, names: Mapping[str, object]) -> None:
    """A value of an enum that the schema knows."""
    if value not in {int(member) for member in names.values()}:  # type: ignore[call-overload] # IntEnum members
        raise refuse(path, int(value), f"is none of {', '.join(names)}")
