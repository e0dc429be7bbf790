"""The keys that leave a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol.detach_keys import DEFAULT, DetachKeys, Typed, parse

FEW = st.sampled_from([b"a", b"b", b"\x10"])
PIECES = st.lists(st.lists(FEW, max_size=6).map(b"".join), max_size=8)
KEYS = st.lists(FEW, min_size=1, max_size=4).map(b"".join)


@pytest.mark.parametrize(
    ("text", "keys"),
    [(DEFAULT, b"\x10\x11"), ("", b""), ("~,.", b"~."), ("ctrl-a,d", b"\x01d"), ("ctrl-[,ctrl-@", b"\x1b\x00")],
)
def test_keys_have_names(text: str, keys: bytes) -> None:
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ctrl-pq", "ab", ",", "ctrl-p,", "é", "Ctrl-p"])
def test_a_name_that_is_none_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match="neither one ASCII character"):
        parse(text)


@given(KEYS, PIECES)
def test_what_is_typed_goes_on_until_the_keys_however_it_is_cut(keys: bytes, pieces: list[bytes]) -> None:
    machine, sent, detached = DetachKeys(keys), b"", False
    for piece in pieces:
        typed = machine.feed(piece)
        sent += typed.data
        detached = typed.detached
        if detached:
            break
    typed_all = b"".join(pieces)
    assert detached == (keys in typed_all)
    if detached:
        assert sent == typed_all[: typed_all.index(keys)]
    else:
        # Only what may still become the keys is held back.
        assert typed_all.startswith(sent)
        assert keys.startswith(typed_all[len(sent) :])
        assert sent + machine.finish() == typed_all
        assert machine.finish() == b""


@given(PIECES)
def test_without_keys_nothing_is_held_back(pieces: list[bytes]) -> None:
    machine = DetachKeys(b"")
    assert [machine.feed(piece) for piece in pieces] == [Typed(piece) for piece in pieces]
