"""A layer's stream decompressed in a thread of its own: whole or an error, and never a thread left behind."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import threading
from typing import TYPE_CHECKING, cast

import pytest
import zstandard
from isal.igzip_lib import IsalError

from ocishim.images.feed import Feed
from ocishim.images.inflate import Inflation

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = os.urandom(1 << 20)
GZIP = gzip.compress(CONTENT, mtime=0)
ZSTD = zstandard.ZstdCompressor().compress(CONTENT)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"chunk"
"""A frame that decompressors pass over (RFC 8878, 3.1.2); zstd:chunked keeps its table of contents in such."""
PIECE = 10_000
BROKEN = (EOFError, OSError, zstandard.ZstdError, cast("type[Exception]", IsalError))
"""What the libraries raise; the last one's stub takes it for an instance."""


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "inflate-layer"]


async def fed(blob: bytes, *, ended: bool = True) -> Feed:
    feed = Feed()
    for begin in range(0, len(blob), PIECE):
        await feed.put(blob[begin : begin + PIECE])
    if ended:
        feed.end()
    return feed


def whole(kind: str, feed: Feed) -> tuple[bytes, str, int]:
    """What comes out, and digest and size of what went in."""
    content = b""
    with Inflation(kind, feed, None) as inflation:
        while chunk := inflation.read():
            content += chunk
    return content, inflation.compressed.digest.hexdigest(), inflation.compressed.size


@pytest.mark.parametrize(
    ("kind", "blob", "content"),
    [
        ("none", CONTENT, CONTENT),
        ("none", b"", b""),
        ("gzip", GZIP, CONTENT),
        ("gzip", GZIP + GZIP, CONTENT + CONTENT),
        ("gzip", GZIP + bytes(1000), CONTENT),
        ("zstd", ZSTD, CONTENT),
        ("zstd", ZSTD + ZSTD, CONTENT + CONTENT),
        ("zstd", ZSTD + SKIPPABLE + ZSTD + SKIPPABLE, CONTENT + CONTENT),
    ],
)
async def test_content_is_whole_and_the_digest_that_of_every_byte(kind: str, blob: bytes, content: bytes) -> None:
    found = await asyncio.to_thread(whole, kind, await fed(blob))
    assert found == (content, hashlib.sha256(blob).hexdigest(), len(blob))


@pytest.mark.parametrize(
    ("kind", "blob"),
    [
        ("gzip", GZIP + b"garbage after the end"),
        ("gzip", GZIP[:-3]),
        ("gzip", GZIP[:1000]),
        ("gzip", GZIP[:500_000] + b"\xff" * 10_000 + GZIP[510_000:]),
        ("gzip", b"no gzip at all"),
        ("zstd", ZSTD + b"garbage after the end"),
        ("zstd", b"no zstd at all"),
    ],
)
async def test_a_stream_that_is_broken_is_an_error(kind: str, blob: bytes) -> None:
    with pytest.raises(BROKEN):
        await asyncio.to_thread(whole, kind, await fed(blob))


async def test_who_stops_reading_leaves_no_thread_however_much_is_waiting() -> None:
    feed = await fed(gzip.compress(bytes(64 << 20)))

    def glance() -> None:
        with Inflation("gzip", feed, None) as inflation:
            inflation.read()

    await asyncio.to_thread(glance)


async def test_who_stops_reading_while_nothing_comes_waits_for_the_feeds_end_only() -> None:
    feed = await fed(GZIP[:500_000], ended=False)
    stopped = threading.Event()

    def glance() -> None:
        with Inflation("gzip", feed, None) as inflation:
            inflation.read()
            stopped.set()

    glancing = asyncio.create_task(asyncio.to_thread(glance))
    await asyncio.to_thread(stopped.wait, 10)
    feed.end()
    await asyncio.wait_for(glancing, 10)
