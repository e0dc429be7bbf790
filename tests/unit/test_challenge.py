"""WWW-Authenticate headers, as registries write them and as nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol.challenge import LONGEST, Challenge, parse

DOCKER = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        (" , ,", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a \\"b\\" \\\\c"', [Challenge("basic", {"realm": 'a "b" \\c'})]),
        ("BASIC realm=x , charset = utf-8", [Challenge("basic", {"realm": "x", "charset": "utf-8"})]),
        (
            DOCKER,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('Negotiate, Basic realm="x"', [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        ("Negotiate YWJj==, Basic", [Challenge("negotiate"), Challenge("basic")]),
        (
            'Bearer realm="r", Basic realm="b", charset="UTF-8"',
            [Challenge("bearer", {"realm": "r"}), Challenge("basic", {"realm": "b", "charset": "UTF-8"})],
        ),
        ("Basic realm=first, realm=second", [Challenge("basic", {"realm": "first"})]),
    ],
)
def test_challenges_are_read(header: str, challenges: list[Challenge]) -> None:
    assert parse(header) == challenges


@pytest.mark.parametrize(
    "header", ['Basic realm="open', "=", "Basic =x", '"quoted"', "Basic realm=ä", "x" * (LONGEST + 1)]
)
def test_garbage_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="challenge"):
        parse(header)


@given(st.text(st.sampled_from('Bearer ="\\,\t x=~ä\n'), max_size=200) | st.text(max_size=100))
def test_any_header_is_read_or_refused(header: str) -> None:
    try:
        found = parse(header)
    except ValueError:
        return
    assert all(each.scheme == each.scheme.lower() != "" for each in found)


values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
names = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=5)


@given(st.lists(st.tuples(names, st.dictionaries(names, values, min_size=1, max_size=4)), max_size=4))
def test_what_is_written_is_read_back(wanted: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in wanted
    )
    assert parse(header) == [Challenge(scheme, parameters) for scheme, parameters in wanted]
