"""Container logs in the CRI's format, read forwards, backwards, in any pieces, and when they are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol import log_line
from ocishim.protocol.log_line import STDERR, STDOUT, Lines, Reader, Record, nanoseconds, parse, tail_offset

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME = "2026-01-31T12:00:00.123456789+01:00"
TEXT = st.binary(max_size=30).filter(lambda text: b"\n" not in text)
RECORDS = st.lists(st.tuples(st.sampled_from((STDOUT, STDERR)), st.booleans(), TEXT), max_size=12)


def written(*records: tuple[str, bool, bytes]) -> bytes:
    """The file, of records of stream, whether they end a line, and text."""
    return b"".join(
        b"%s %s %s %s\n" % (TIME.encode(), stream.encode(), b"F" if full else b"P", text)
        for stream, full, text in records
    )


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    for end in range(len(data), 0, -size):
        yield data[max(0, end - size) : end]


def test_a_record_has_time_stream_and_text() -> None:
    assert parse(f"{TIME} stdout F hello  world".encode()) == Record(TIME, STDOUT, b"hello  world\n")
    assert parse(f"{TIME} stderr P part".encode()) == Record(TIME, STDERR, b"part")


def test_further_tags_are_passed_over() -> None:
    assert parse(f"{TIME} stdout P:new text".encode()).text == b"text"


def test_an_empty_line_may_lack_its_last_space() -> None:
    assert parse(f"{TIME} stdout F".encode()) == parse(f"{TIME} stdout F ".encode()) == Record(TIME, STDOUT, b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"2026 stdout F x",
        b"2026-01-31T12:00:00Z stdin F x",
        b"2026-01-31T12:00:00Z stdout X x",
        b'{"log":"x"}',
        b"\xff \xff \xff",
    ],
)
def test_what_is_no_record_is_shown_as_it_is(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(line)
    assert list(Reader().feed(line + b"\n")) == [Record("", STDOUT, line + b"\n")]


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("2026-01-31T12:00:00.123456789+00:00", 1769860800123456789),
    ],
)
def test_times_are_exact_to_the_nanosecond(timestamp: str, expected: int) -> None:
    assert nanoseconds(timestamp) == expected


@pytest.mark.parametrize("text", ["", "now", "2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T12:00:00", "9" * 400])
def test_what_is_no_time_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        nanoseconds(text)


@given(RECORDS, st.lists(st.integers(1, 40)))
def test_the_pieces_in_which_a_file_is_read_make_no_difference(
    records: list[tuple[str, bool, bytes]], sizes: list[int]
) -> None:
    data, reader, position = written(*records), Reader(), 0
    found: list[Record] = []
    for size in sizes:
        found += reader.feed(data[position : position + size])
        position += size
    found += reader.feed(data[position:])
    assert found == list(Reader().feed(data))
    assert [(each.stream, each.is_full, each.text) for each in found] == [
        (stream, full, text + b"\n" if full else text) for stream, full, text in records
    ]
    assert not list(reader.finish())


@given(st.binary(max_size=300))
def test_no_byte_of_a_damaged_file_is_an_error(data: bytes) -> None:
    reader = Reader()
    for record in [*reader.feed(data), *reader.finish()]:
        Lines(since=1, timestamps=True).show(record)


def test_a_record_without_end_is_shown_in_pieces() -> None:
    reader = Reader()
    endless = b"x" * (log_line.LONGEST_RECORD + 1)
    assert [record.text for record in reader.feed(endless)] == [endless]


def test_a_record_cut_by_its_writers_death_is_shown() -> None:
    reader = Reader()
    assert not list(reader.feed(f"{TIME} stdout F hel".encode()))
    assert [record.text for record in reader.finish()] == [b"hel\n"]


def test_times_stand_where_the_containers_lines_begin() -> None:
    lines = Lines(timestamps=True)
    records = Reader().feed(written((STDOUT, False, b"a"), (STDERR, True, b"e"), (STDOUT, True, b"b")))
    stamp = TIME.encode()
    assert [lines.show(record) for record in records] == [stamp + b" a", stamp + b" e\n", b"b\n"]


def test_lines_before_since_and_of_the_other_stream_are_left_out() -> None:
    records = list(Reader().feed(written((STDOUT, True, b"a"), (STDERR, True, b"e"))))
    moment = nanoseconds(TIME)
    assert [Lines(since=moment).show(record) for record in records] == [b"a\n", b"e\n"]
    assert [Lines(since=moment + 1).show(record) for record in records] == [None, None]
    assert [Lines(streams=(STDERR,)).show(record) for record in records] == [None, b"e\n"]


@given(RECORDS, st.integers(0, 6), st.integers(1, 90), st.sampled_from([(STDOUT, STDERR), (STDERR,)]))
def test_a_tail_begins_after_the_line_before_it(
    records: list[tuple[str, bool, bytes]], lines: int, block: int, streams: tuple[str, ...]
) -> None:
    data = written(*records)
    offset = tail_offset(blocks(data, block), len(data), lines, streams)
    assert offset == len(data[:offset])
    assert offset == 0 or data[offset - 1 : offset] == b"\n"
    wanted = [record for record in Reader().feed(data[offset:]) if record.stream in streams]
    ends = sum(record.is_full for record in wanted)
    unended = bool(wanted) and not wanted[-1].is_full
    whole = [full for stream, full, _ in records if stream in streams]
    there = sum(whole) + (bool(whole) and not whole[-1])
    assert ends + unended == min(lines, there)


def test_a_tail_is_found_without_reading_the_whole_file() -> None:
    line = written((STDOUT, True, b"x"))

    def only_one() -> Iterator[bytes]:
        yield line * 4
        raise AssertionError("more was read than needed")

    assert tail_offset(only_one(), len(line) * 1000, 2) == len(line) * 998
