"""What runtimes say of themselves, and what a handler's pods can have of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.runtime.features import by_version, judge
from ocishim.spec.features import Features

ALL = Features.model_validate_json('{"mountOptions": ["ro", "rro"], "linux": {"namespaces": ["net", "user"]}}')


def test_a_runtimes_features_are_read_and_what_is_new_is_passed_over() -> None:
    read = Features.model_validate_json(
        '{"ociVersionMax": "1.2", "mountOptions": ["rro"], "linux": {"namespaces": null, "x": 1}, "new": {}}'
    )
    assert read.mount_options == ("rro",)
    assert read.linux is not None
    assert read.linux.namespaces is None
    assert Features.model_validate_json("{}") == Features()


@pytest.mark.parametrize(
    ("told", "userns", "recursive", "expected"),
    [
        (ALL, True, True, (True, True)),
        (ALL, False, True, (False, True)),
        (ALL, True, False, (True, False)),
        (Features(mount_options=("ro",)), True, True, (False, False)),
        (Features(), True, True, (False, False)),
        (None, True, True, (False, False)),
    ],
)
def test_runtime_and_kernel_both_must_be_able_to(
    told: Features | None, userns: bool, recursive: bool, expected: tuple[bool, bool]
) -> None:
    found = judge(told, userns=userns, recursive=recursive)
    assert (found.user_namespaces, found.recursive_read_only_mounts) == expected
    assert found.told == told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crun version 1.8.1\ncommit: f8a0\n", (True, True)),
        ("crun version 1.10\n", (True, True)),
        ("crun version 1.4", (True, True)),
        ("crun version 1.3\n", (False, False)),
        ("crun version 0.20.1\n", (False, False)),
        ("runc version 1.0.0\n", (False, False)),
        ("", (False, False)),
    ],
)
def test_a_crun_that_has_no_such_command_is_known_by_its_version(text: str, expected: tuple[bool, bool]) -> None:
    found = judge(by_version(text), userns=True, recursive=True)
    assert (found.user_namespaces, found.recursive_read_only_mounts) == expected


@given(st.text())
def test_any_words_for_a_version_are_survived(text: str) -> None:
    by_version(text)
    by_version(f"crun version {text}")
