"""What a handler's pods can have of what its runtime says of itself."""

from __future__ import annotations

import pytest

from ocishim.runtime.abilities import Abilities, parse
from ocishim.runtime.features import judge

ALL = Abilities(recursive_readonly=True, user_namespaces=True)


@pytest.mark.parametrize(
    ("abilities", "userns", "recursive", "expected"),
    [
        (ALL, True, True, (True, True)),
        (ALL, False, True, (False, True)),
        (ALL, True, False, (True, False)),
        (Abilities(), True, True, (False, False)),
    ],
)
def test_runtime_and_kernel_both_must_be_able_to(
    abilities: Abilities, userns: bool, recursive: bool, expected: tuple[bool, bool]
) -> None:
    found = judge(abilities, userns=userns, recursive=recursive)
    assert (found.user_namespaces, found.recursive_read_only_mounts) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"crun version 1.8.1\ncommit: f8a0\n", True),
        (b"crun version 1.3\n", False),
        (b'{"linux": {"namespaces": ["network", "user"]}}', True),
        (b'{"linux": {"namespaces": ["network"]}}', False),
        (b'{"linux": {"namespaces": null}}', False),
        (b"{}", False),
    ],
)
def test_user_namespaces_are_the_runtimes_to_say(said: bytes, expected: bool) -> None:
    found = parse(said)
    assert found is not None
    assert found.user_namespaces is expected
