"""What users call pods and containers."""

from __future__ import annotations

import pytest

from ocishim.client.names import Named, resolve
from ocishim.errors import InvalidArgument, NotFound

POD = Named("pod", "aa11", ("default", "web"), 1)
OLD = Named("container", "bb01", ("default", "web", "nginx"), 2)
NEW = Named("container", "bb02", ("default", "web", "nginx"), 3)
OTHER = Named("container", "cc03", ("test", "web2", "nginx"), 4)
LONE = Named("container", "dd04", ("default", "web", "bb0"), 5)
ALL = [POD, OLD, NEW, OTHER, LONE]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("bb01", OLD),
        ("aa", POD),
        ("c", OTHER),
        ("web/nginx", NEW),
        ("default/web/nginx", NEW),
        ("web2/nginx", OTHER),
        ("web", POD),
        ("default/web", POD),
        ("bb0", LONE),
    ],
)
def test_an_id_a_name_or_the_beginning_of_an_id(text: str, meant: Named) -> None:
    assert resolve(text, ALL) is meant


def test_of_several_attempts_the_latest_is_meant() -> None:
    assert resolve("nginx", [NEW, OLD]) is NEW


@pytest.mark.parametrize("text", ["nginx", "bb01 ", "", "bb"])
def test_what_is_ambiguous_or_empty_is_refused(text: str) -> None:
    with pytest.raises((InvalidArgument, NotFound)):
        resolve(text, [POD, OLD, NEW, OTHER])


def test_an_ambiguous_name_lists_the_candidates() -> None:
    with pytest.raises(InvalidArgument) as raised:
        resolve("nginx", ALL)
    assert "container default/web/nginx (bb02), container test/web2/nginx (cc03)" in str(raised.value)
    assert "bb01" not in str(raised.value)


def test_many_candidates_are_counted() -> None:
    many = [Named("container", f"a{n:03}", ("n", f"p{n}", "c"), n) for n in range(20)]
    with pytest.raises(InvalidArgument, match="and 12 more"):
        resolve("c", many)


def test_an_unknown_name_is_said_with_what_was_looked_for() -> None:
    with pytest.raises(NotFound, match="no pod is called 'x'"):
        resolve("x", [POD])
    with pytest.raises(NotFound, match="no container or pod is called 'x'"):
        resolve("x", ALL)
