"""ocishim/api is what the files under proto/ say: it is neither stale nor edited by hand."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import generate

if TYPE_CHECKING:
    from pathlib import Path


def test_the_committed_code_is_what_the_generator_writes_now(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    committed, written = generate.sources_of(generate.API), generate.sources_of(tmp_path)
    difference = [
        line
        for name in sorted(committed.keys() | written.keys())
        for line in difflib.unified_diff(
            committed.get(name, "").splitlines(),
            written.get(name, "").splitlines(),
            f"ocishim/api/{name}, as it is",
            f"ocishim/api/{name}, as proto/ says",
            lineterm="",
        )
    ]
    assert not difference, "\n".join(["run `./dev proto`, then commit ocishim/api", *difference[:60]])
