"""The status document at the end of a remote command."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol.command_status import Failed, exit_code


def document(**fields: object) -> bytes:
    return json.dumps({"metadata": {}, **fields}).encode()


def exited(message: object) -> bytes:
    causes = [{"reason": "Other", "message": "1"}, {"reason": "ExitCode", "message": message}]
    return document(status="Failure", reason="NonZeroExitCode", message="it failed", details={"causes": causes})


def test_success_is_exit_code_0() -> None:
    assert exit_code(document(status="Success")) == 0


def test_the_commands_own_code_is_among_the_causes() -> None:
    assert exit_code(exited("42")) == 42


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (document(status="Failure", reason="InternalError", message="no such command"), "no such command"),
        (document(status="Failure", reason="InternalError"), "InternalError"),
        (document(status="Failure"), "no reason was given"),
        (exited("many"), "it failed"),
        (exited(None), "it failed"),
        (document(status="Failure", reason="NonZeroExitCode", message="it failed", details=None), "it failed"),
        (b"container is gone\n", "container is gone"),
        (b"", "an empty status"),
        (b"[]", r"\[\]"),
    ],
)
def test_anything_else_is_a_failure_in_the_servers_words(content: bytes, words: str) -> None:
    with pytest.raises(Failed, match=words):
        exit_code(content)


@given(st.binary(max_size=100))
def test_garbage_is_a_failure_too(content: bytes) -> None:
    with pytest.raises(Failed):
        exit_code(content)
