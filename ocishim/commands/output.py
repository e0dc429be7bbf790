"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_RIGHT: Final = frozenset(("SIZE", "ATTEMPT"))
_SECOND: Final = 1_000_000_000
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_ROUGH: Final = 2
"""From so many of a unit on, it is fine enough."""


def say(text: str) -> None:
    """A line on stdout."""
    print(text, flush=True)  # noqa: T201 - the program's output


def warn(text: str) -> None:
    """A line on stderr."""
    print(f"ocishim: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the program's output


def as_json(value: object) -> None:
    """A document on stdout."""
    say(json.dumps(value, indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout: as wide as the terminal, or into a pipe as it is."""
    made = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        made.add_column(column, justify="right" if column in _RIGHT else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_printable(cell)) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    with console.capture() as captured:
        console.print(made)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _printable(text: str) -> str:
    """Names come from outside: none may move the cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def age(since: int, now: int) -> str:
    """Nanoseconds since the epoch as time passed, in the largest unit that is not too rough."""
    seconds = max(0, (now - since) // _SECOND) if since else 0
    for length, unit in _AGES:
        if seconds >= length * _ROUGH or length == 1:
            return f"{seconds // length}{unit}"
    raise AssertionError("seconds fit always")


def moment(nanoseconds: int) -> str:
    """Nanoseconds since the epoch in RFC 3339; empty for 0, which means not yet."""
    if not nanoseconds:
        return ""
    seconds, rest = divmod(nanoseconds, _SECOND)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (ValueError, OverflowError, OSError):
        return str(nanoseconds)  # beyond the calendar
