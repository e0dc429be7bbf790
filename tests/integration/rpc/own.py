"""A server with settings of a test module's own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocishim.runtime.choice import refusal
from rpc.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def serving(runtime: str, layout: Path, settings: Callable[[Node], str]) -> Iterator[Node]:
    """A node whose configuration has a drop-in file more; a runtime that this host cannot run is a skip."""
    why = "needs root" if os.geteuid() != 0 else refusal(runtime, f"/usr/bin/{runtime}")
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{runtime} cannot run here: {why}")
    made = Node(runtime)
    try:
        made.prepare()
        drop_ins = Path(f"{made.config}.d")
        drop_ins.mkdir()
        (drop_ins / "own.toml").write_text(settings(made))
        made.start()
        made.load(layout)
        yield made
        assert made.stop() == 0
    finally:
        made.clean()


def script(path: Path, text: str) -> Path:
    """A program in shell."""
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path
