"""Lists joined from encoded entries are what the message class would have encoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.api.runtime import v1
from ocishim.cri.interceptor import method_name, one_line
from ocishim.cri.listing import CHUNK, chunks, has_labels, join, varint


@given(st.lists(st.text(max_size=300), max_size=20))
def test_joined_entries_are_the_messages_bytes(names: list[str]) -> None:
    containers = [v1.Container(id=name, labels={"name": name}) for name in names]
    joined = join((bytes(each) for each in containers), 1).content
    assert v1.ListContainersResponse().parse(joined) == v1.ListContainersResponse(containers=containers)
    assert joined == bytes(v1.ListContainersResponse(containers=containers))


@given(st.lists(st.integers(0, 2 * CHUNK), max_size=12))
def test_chunks_hold_each_entry_once_and_none_is_empty_or_much_too_large(sizes: list[int]) -> None:
    entries = [bytes(size) for size in sizes]
    found = list(chunks(entries))
    assert [entry for chunk in found for entry in chunk] == entries
    assert all(chunk and (len(chunk) == 1 or sum(map(len, chunk)) <= CHUNK) for chunk in found)


@pytest.mark.parametrize(("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_varints(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded


def test_all_labels_of_a_selector_must_be_there() -> None:
    labels = {"a": "1", "b": "2"}
    assert has_labels(labels, {})
    assert has_labels(labels, {"a": "1", "b": "2"})
    assert not has_labels(labels, {"a": "1", "c": "3"})
    assert not has_labels(labels, {"a": "2"})


@given(st.text())
def test_text_from_outside_stays_one_log_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert len(one_line(text * 500)) <= 2001


def test_every_rpc_has_its_generated_method() -> None:
    for service in (v1.RuntimeServiceBase(), v1.ImageServiceBase()):
        for path in service.__mapping__():
            assert hasattr(service, method_name(path.rsplit("/", 1)[1]))
