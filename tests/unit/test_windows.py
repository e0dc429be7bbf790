"""Rates of counters over a window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ocishim.metrics.windows import SECOND, Windows


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def to(self, seconds: float) -> None:
        self.now = int(seconds * SECOND)


def test_a_rate_needs_two_readings_a_second_apart() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    assert windows.rate("a", 0) is None
    clock.to(0.5)
    assert windows.rate("a", SECOND) is None
    clock.to(2)
    assert windows.rate("a", SECOND) == SECOND // 2


def test_a_rate_spans_one_to_two_intervals_however_often_it_is_asked_for() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    for tenth in range(400):  # half a core for twenty seconds, then a whole one
        clock.to(tenth / 10)
        used = clock.now // 2 if tenth <= 200 else clock.now - 10 * SECOND
        rate = windows.rate("a", used)
        if tenth > 205:
            assert rate is not None
            assert SECOND // 2 <= rate <= SECOND
    assert rate == SECOND


def test_a_counter_that_falls_begins_anew() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    windows.rate("a", 5 * SECOND)
    clock.to(5)
    assert windows.rate("a", SECOND) is None
    clock.to(7)
    assert windows.rate("a", 3 * SECOND) == SECOND


def test_a_counter_that_was_not_read_for_long_tells_nothing_of_lately() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    windows.rate("a", 0)
    clock.to(1000)
    assert windows.rate("a", 900 * SECOND) is None
    clock.to(1002)
    assert windows.rate("a", 901 * SECOND) == SECOND // 2


def test_what_cannot_be_read_has_no_rate_and_spoils_none() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    windows.rate("a", 0)
    clock.to(1)
    assert windows.rate("a", None) is None
    clock.to(2)
    assert windows.rate("a", SECOND) == SECOND // 2


def test_counters_that_are_not_kept_are_forgotten() -> None:
    clock = Clock()
    windows = Windows(10, clock)
    windows.rate("a", 0)
    windows.rate("b", 0)
    windows.keep({"b"})
    clock.to(2)
    assert windows.rate("a", SECOND) is None
    assert windows.rate("b", SECOND) == SECOND // 2


@given(st.lists(st.tuples(st.integers(0, 20 * SECOND), st.integers(0, 2**64 - 1))))
def test_a_rate_is_never_negative(readings: list[tuple[int, int]]) -> None:
    clock = Clock()
    windows = Windows(10, clock)
    for later, used in readings:
        clock.now += later
        rate = windows.rate("a", used)
        assert rate is None or rate >= 0
