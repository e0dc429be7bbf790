"""SPDY/3.1 header blocks: names and values as bytes, compressed over a dictionary, one context a direction.

draft-mbelshe-httpbis-spdy-00, section 2.6.10. What comes from outside is inflated up to a limit and no further.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Words that the draft puts before the dictionary's text with their lengths, in its order (section 2.6.10.1).
_WORDS: Final = (  # noqa: SIM905 - sixty quoted words would hide what is one text
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
    "allow authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
).split()
_MORE_WORDS: Final = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = (
    b"".join(struct.pack("!I", len(word)) + word.encode() for word in (*_WORDS, *_MORE_WORDS)) + _TEXT.encode()
)
DICTIONARY_ID: Final = 0xE3C6A7C2
"""Its Adler-32, which every compressed stream names at its start."""

_COUNT: Final = struct.Struct("!I")


class HeaderError(ValueError):
    """A header block that cannot be read: the compression context is lost, and the connection with it."""


class Compressor:
    """Makes header blocks; one for all frames of a direction."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(zdict=DICTIONARY)

    def block(self, headers: Mapping[str, str]) -> bytes:
        """A compressed block. Names are lower case."""
        parts = [_COUNT.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1"), value.encode("latin-1")):
                parts += (_COUNT.pack(len(text)), text)
        return self._zlib.compress(b"".join(parts)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class Decompressor:
    """Reads header blocks; one for all frames of a direction."""

    def __init__(self, limit: int) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)
        self._limit = limit

    def headers(self, block: bytes) -> dict[str, str]:
        """The headers of a block; several values of one name are joined by NUL. Raises HeaderError."""
        try:
            plain = self._zlib.decompress(block, self._limit + 1)
        except zlib.error as error:
            raise HeaderError(f"headers cannot be inflated: {error}") from error
        if len(plain) > self._limit or self._zlib.unconsumed_tail:
            raise HeaderError(f"headers are longer than {self._limit} bytes")
        return _parse(plain)


def _parse(plain: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    position = 0

    def text() -> str:
        nonlocal position
        length = number()
        if length > len(plain) - position:
            raise HeaderError("a header is longer than its block")
        position += length
        return plain[position - length : position].decode("latin-1")

    def number() -> int:
        nonlocal position
        if len(plain) - position < _COUNT.size:
            raise HeaderError("a header block ends too early")
        position += _COUNT.size
        value: int = _COUNT.unpack_from(plain, position - _COUNT.size)[0]
        return value

    # Each header takes eight bytes at the least, so that a huge count ends with the block.
    for _ in range(number()):
        name, value = text(), text()
        if not name or name != name.lower():
            raise HeaderError(f"{name[:80]!r} is no header name")
        if name in headers:
            raise HeaderError(f"the header {name[:80]!r} comes twice")
        headers[name] = value
    if position != len(plain):
        raise HeaderError("a header block has bytes after its last header")
    return headers
