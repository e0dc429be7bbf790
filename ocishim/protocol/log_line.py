"""Container log files in the CRI's format: `TIME STREAM TAG TEXT`, one record a line.

TIME is RFC 3339 with nanoseconds, STREAM stdout or stderr, TAG `F` for a record that ends a line of the container's or
`P` for one that goes on in the stream's next record (kubernetes/design-proposals, kubelet-cri-logging). Tags may hold
more words, separated by colons; the first counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
NANOSECONDS: Final = 1_000_000_000
LONGEST_RECORD: Final = 1 << 20
"""Bytes of one record; runtimes cut theirs at 8 to 64 KiB. What is longer is shown in pieces, as no record."""

_FIELDS: Final = 4
_TIME: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?(?P<zone>[Zz]|[+-]\d\d:\d\d)"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file."""

    timestamp: str
    """As it is written; empty where the line is no record."""
    stream: str
    text: bytes
    """With its newline where it ends a line of the container's."""

    @property
    def is_full(self) -> bool:
        """Whether the container's line ends here."""
        return self.text.endswith(b"\n")


def parse(line: bytes) -> Record:
    """The record of one line without its newline. Raises ValueError where it is none."""
    fields = line.split(b" ", _FIELDS - 1)
    if len(fields) < _FIELDS - 1:
        raise ValueError("fewer than three words")
    stream, tag = fields[1].decode("ascii", "replace"), fields[2].split(b":", 1)[0]
    if stream not in (STDOUT, STDERR):
        raise ValueError(f"{stream!r} is no stream")
    if tag not in (b"F", b"P"):
        raise ValueError("the tag is neither F nor P")
    timestamp = fields[0].decode("ascii", "replace")
    if not _TIME.fullmatch(timestamp):
        raise ValueError(f"{timestamp!r} is no time of RFC 3339")
    text = fields[3] if len(fields) == _FIELDS else b""
    return Record(timestamp, stream, text + b"\n" if tag == b"F" else text)


def nanoseconds(timestamp: str) -> int:
    """A time of RFC 3339 as nanoseconds since the epoch. Raises ValueError."""
    found = _TIME.fullmatch(timestamp)
    if found is None:
        raise ValueError(f"{timestamp!r} is no time of RFC 3339, such as 2026-01-31T12:00:00Z")
    zone = found["zone"]
    offset = timedelta() if zone in "Zz" else timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    moment = datetime.fromisoformat(f"{found['date']}T{found['time']}").replace(
        tzinfo=timezone(-offset if zone[0] == "-" else offset)
    )
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * NANOSECONDS + int((found["fraction"] or "").ljust(9, "0"))


@dataclass(slots=True)
class Reader:
    """A log file's bytes in, its records out; keeps the beginning of a record that has not come whole."""

    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that end in data. A line that is no record is given as it is, as if from stdout."""
        self._rest += data
        if (end := self._rest.rfind(b"\n")) >= 0:
            whole = bytes(self._rest[:end])
            del self._rest[: end + 1]
            yield from map(_lenient, whole.split(b"\n"))
        if len(self._rest) > LONGEST_RECORD:
            yield Record("", STDOUT, self._taken())

    def finish(self) -> Iterator[Record]:
        """What the file ends with after its last newline: a writer died in the middle of it."""
        if self._rest:
            yield _lenient(self._taken())

    def _taken(self) -> bytes:
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def _lenient(line: bytes) -> Record:
    try:
        return parse(line)
    except ValueError:
        return Record("", STDOUT, line + b"\n")


class Lines:
    """Records in, what is to be shown out: filtered, and with times where a line of the container's begins."""

    def __init__(self, *, since: int = 0, streams: Iterable[str] = (STDOUT, STDERR), timestamps: bool = False) -> None:
        self._since = since
        self._streams = frozenset(streams)
        self._timestamps = timestamps
        self._within: set[str] = set()
        """Streams in the middle of a line."""

    def show(self, record: Record) -> bytes | None:
        """The bytes for the record's own stream; None where it is not wanted."""
        begins = record.stream not in self._within
        (self._within.discard if record.is_full else self._within.add)(record.stream)
        if record.stream not in self._streams or self._is_old(record):
            return None
        return record.timestamp.encode() + b" " + record.text if begins and self._has_time(record) else record.text

    def _has_time(self, record: Record) -> bool:
        return self._timestamps and bool(record.timestamp)

    def _is_old(self, record: Record) -> bool:
        if not self._since or not record.timestamp:
            return False
        try:
            return nanoseconds(record.timestamp) < self._since
        except ValueError:
            return False  # has the form of a time, and is no day of the calendar


def tail_offset(blocks: Iterable[bytes], size: int, lines: int, streams: Iterable[str] = (STDOUT, STDERR)) -> int:
    """Where the last so many lines of the container's, as far as they are in streams, begin in a file of that size.

    The blocks are the file's, from its end to its beginning; no more of them are taken than are needed. What is after
    the last whole line counts as a line.
    """
    if lines <= 0:
        return size
    wanted = frozenset(streams)
    left = None
    for end, line in _backwards(blocks, size):
        record = _lenient(line.removesuffix(b"\n"))
        if record.stream not in wanted:
            continue
        ends_a_line = record.is_full and line.endswith(b"\n")
        if left is None:
            left = lines + ends_a_line
        left -= ends_a_line
        if not left:
            return end
    return 0


def _backwards(blocks: Iterable[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """The file's lines from the last to the first, each with the offset where it ends."""
    position, rest = size, b""
    for block in blocks:
        position -= len(block)
        rest = block + rest
        end = len(rest)
        while (newline := rest.rfind(b"\n", 0, end - 1)) >= 0:
            yield position + end, rest[newline + 1 : end]
            end = newline + 1
        rest = rest[:end]
        if end > LONGEST_RECORD:
            yield position + end, rest
            rest = b""
    if rest:
        yield position + len(rest), rest
