"""The fields of a message, of those in it, and so on, as proto/ has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROTO: Final = Path(__file__).resolve().parents[2] / "proto/runtime/v1/api.proto"
ROOTS: Final = ("PodSandboxConfig", "ContainerConfig")
OPTIONAL_NUMBERS: Final = ("Int64Value",)
"""Messages that stand for a number or none."""
_FIELD: Final = re.compile(r"^\s+((?:repeated )?(?:map<\w+, \w+>|[\w.]+)) (\w+) = \d+")


class Leaf(NamedTuple):
    """A field that holds a value: its path has [] behind what is repeated or a map."""

    path: str
    type: str


def messages(text: str) -> dict[str, list[tuple[str, str]]]:
    """Type and name of each message's fields. Messages are not nested in this schema, enums may be."""
    found: dict[str, list[tuple[str, str]]] = {}
    inside: list[tuple[str, str]] | None = None
    depth = 0
    for line in text.splitlines():
        code = line.split("//")[0]
        if match := re.match(r"^message (\w+) \{", code):
            inside = found.setdefault(match[1], [])
            depth = code.count("{") - code.count("}")
            continue
        if inside is None:
            continue
        if depth == 1 and (match := _FIELD.match(code)):
            inside.append((match[1], match[2]))
        depth += code.count("{") - code.count("}")
        if depth == 0:
            inside = None
    return found


def leaves(table: Mapping[str, list[tuple[str, str]]], message: str, prefix: str) -> Iterator[Leaf]:
    """All leaves of a message, in the order of their declaration."""
    for kind, name in table[message]:
        plain = kind.removeprefix("repeated ")
        path = f"{prefix}.{name}{'[]' if plain != kind or plain.startswith('map<') else ''}"
        if plain in table and plain not in OPTIONAL_NUMBERS:
            yield from leaves(table, plain, path)
        else:
            yield Leaf(path, kind)


def all_leaves() -> list[Leaf]:
    """All that a pod or a container can be asked to be."""
    table = messages(PROTO.read_text(encoding="utf-8"))
    return [leaf for root in ROOTS for leaf in leaves(table, root, root)]
