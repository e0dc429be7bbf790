"""What conmon and OCI runtimes write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.lifecycle.container_exit import reason
from ocishim.protocol.conmon import Created, Refused, parse_exit_file, parse_sync
from ocishim.protocol.runtime_error import command_exit_code, words


def test_the_sync_pipe_tells_the_pid_or_the_refusal() -> None:
    assert parse_sync(b'{"pid": 42}') == Created(42)
    assert parse_sync(b'{"pid": -1, "message": "no"}') == Refused("no")


@given(st.binary(max_size=200))
def test_nonsense_on_the_sync_pipe_is_one_kind_of_error(line: bytes) -> None:
    try:
        parse_sync(line)
    except (ValueError, TypeError):
        pass


@pytest.mark.parametrize(("content", "code"), [(b"0", 0), (b"137\n", 137), (b"255", 255), (b"-1", 255)])
def test_exit_files(content: bytes, code: int) -> None:
    assert parse_exit_file(content) == code


@pytest.mark.parametrize("content", [b"", b"x", b"256", b"-2", b"1 2", b"\xff"])
def test_exit_files_that_are_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_exit_file(content)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('time="2026-01-01T00:00:00Z" level=error msg="exec: \\"x\\": not found"', 'exec: "x": not found'),
        ("executable file `x` not found in $PATH: No such file or directory\n", None),
        ('{"msg":"no room","level":"error","time":"t"}', "no room"),
        ("one\none\ntwo", "one; two"),
        ("{broken", "{broken"),
        ("", ""),
    ],
)
def test_the_runtimes_words_without_their_dressing(said: str, meant: str | None) -> None:
    assert words(said) == (said.strip() if meant is None else meant)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "nope": executable file not found in $PATH', 127),
        ("executable file `nope` not found in $PATH: No such file or directory", 127),
        ("open executable: Operation not permitted", 126),
        ('exec: "/etc/x": permission denied', 126),
        ("exec format error", 126),
        ("cgroup: device or resource busy", None),
    ],
)
def test_the_shells_exit_code_of_a_refusal(message: str, code: int | None) -> None:
    assert command_exit_code(message) == code


@pytest.mark.parametrize(
    ("code", "known", "ooms", "expected"),
    [
        (0, True, 0, "Completed"),
        (0, True, 1, "Completed"),
        (137, True, 1, "OOMKilled"),
        (137, True, 0, "Error"),
        (255, False, 0, "Unknown"),
    ],
)
def test_the_reason_of_an_end(code: int, known: bool, ooms: int, expected: str) -> None:
    assert reason(code, known=known, ooms=ooms) == expected
