"""Messages written field by field, for answers of so many that objects for them would take most of a second.

A field is a tag and its content, in any order; numbers are in base 128, texts and messages have their length before
them (protobuf encoding). Tags come from the generated classes.
"""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Final, TypeVar, cast

from ocishim.cri.listing import varint

if TYPE_CHECKING:
    from collections.abc import Callable

    import betterproto
    from _typeshed import DataclassInstance

T = TypeVar("T")

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2
_WIRE_TYPES: Final = {"message": _LENGTH_DELIMITED, "string": _LENGTH_DELIMITED, "double": _FIXED64}
_DOUBLE: Final = struct.Struct("<d")
_WRAPPED: Final = varint(1 << 3 | _VARINT)


class Fields:
    """The fields of one message, by the generated class's names."""

    def __init__(self, message: type[betterproto.Message]) -> None:
        self._tags: dict[str, bytes] = {}
        for each in fields(cast("type[DataclassInstance]", message)):  # all generated classes are
            known = each.metadata["betterproto"]
            self._tags[each.name] = varint(known.number << 3 | _WIRE_TYPES.get(known.proto_type, _VARINT))

    def number(self, name: str, value: int) -> bytes:
        """A number that is not negative; nothing for 0, which is what absence means here."""
        return self._tags[name] + varint(value) if value else b""

    def double(self, name: str, value: float) -> bytes:
        """A floating-point number, likewise."""
        return self._tags[name] + _DOUBLE.pack(value) if value else b""

    def text(self, name: str, value: str) -> bytes:
        """A text."""
        return self.message(name, value.encode())

    def message(self, name: str, content: bytes) -> bytes:
        """A message that is encoded already."""
        return self._tags[name] + varint(len(content)) + content

    def optional(self, name: str, value: T | None, encode: Callable[[T], bytes]) -> bytes:
        """A message of a value, nothing without one."""
        return b"" if value is None else self.message(name, encode(value))

    def wrapped(self, name: str, value: int | None) -> bytes:
        """A number in a message of its own, by which 0 differs from nothing."""
        if value is None:
            return b""
        return self.message(name, _WRAPPED + varint(value) if value else b"")
