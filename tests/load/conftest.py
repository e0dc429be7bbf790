"""A node of its own for each test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from rpc import layouts
from rpc.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A server with crun as its runtime."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and cgroups are made")
    layouts.write(tmp_path)
    made = Node("crun")
    try:
        made.prepare()
        # Debug lines of 20 relists a second would be most of what is measured.
        made.config.write_text(made.config.read_text().replace('level = "debug"', 'level = "info"'))
        made.start()
        made.load(tmp_path)
        yield made
        assert made.stop() == 0
    finally:
        made.clean()
