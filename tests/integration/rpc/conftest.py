"""A node for each OCI runtime, pods that go away, and a leak check after every test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ocishim.runtime.choice import refusal
from rpc import layouts, leaks
from rpc.node import Node, Pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as an OCI layout."""
    directory = tmp_path_factory.mktemp("layout")
    layouts.write(directory)
    return directory


@pytest.fixture(scope="session", params=["crun", "runc"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server with one runtime as its default; one that this host cannot run is a skip, and a failure in CI."""
    runtime = request.param
    why = "needs root" if os.geteuid() != 0 else refusal(runtime, f"/usr/bin/{runtime}")
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{runtime} cannot run here: {why}")
    made = Node(runtime)
    try:
        made.prepare()
        made.start()
        made.load(layout)
        yield made
        assert made.stop() == 0
    finally:
        made.clean()


@pytest.fixture
def pods(node: Node) -> Iterator[Pods]:
    """Makes pods and containers, and takes them away after the test."""
    made = Pods(node)
    try:
        yield made
    finally:
        made.remove_all()


@pytest.fixture(autouse=True)
def nothing_leaks(node: Node) -> Iterator[None]:
    """Whatever a test does, the host is as before when its pods are gone, and the server lives."""
    before, open_before = leaks.held(node), leaks.descriptors(node)
    yield
    leaked = leaks.compare(node, before)
    assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{node.log()}"
    assert node.process is not None
    assert node.process.poll() is None, f"the server is gone:\n{node.log()}"
    assert leaks.descriptors(node) <= open_before + leaks.FEW, "the server keeps descriptors"
    assert "a bug" not in node.log(), node.log()
