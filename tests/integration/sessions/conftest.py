"""The servers that sessions are held with: ours, and Debian's containerd, which nobody here wrote."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from rpc import layouts, leaks
from rpc.node import Node, Pods

from ocishim.runtime.choice import refusal
from sessions.foreign import CONTAINERD, ForeignNode, ForeignPods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWN_SIGNALS = ("/usr/bin/env", "--default-signal=INT")
"""What a shell runs in the background ignores Ctrl-C, and so would what the tests run."""
CONFIGS = layouts.CONFIGS | {"pausing": {"Entrypoint": ["/bin/sleep", "1000000"]}}


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, and a pause image."""
    directory = tmp_path_factory.mktemp("layout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "CONFIGS", CONFIGS)
        layouts.write(directory)
    return directory


def without(why: str) -> None:
    """Skip, or fail in CI, where all is there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.fixture(scope="session", params=["ocishim", "containerd"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server of either make, with crun, in which the runtime has no part."""
    if why := "needs root" if os.geteuid() != 0 else refusal("crun", "/usr/bin/crun"):
        without(f"crun cannot run here: {why}")
    made: Node
    if request.param == "ocishim":
        made = Node("crun")
    else:
        if not os.path.exists(CONTAINERD):
            without("Debian's package containerd is not installed")
        made = ForeignNode("crun")
    try:
        made.prepare()
        made.start()
        made.load_images(layout) if isinstance(made, ForeignNode) else made.load(layout)
        yield made
        assert made.stop() == 0, made.log()
    finally:
        made.clean()


@pytest.fixture
def pods(node: Node) -> Iterator[Pods]:
    """Makes pods and containers, and takes them away after the test."""
    made = ForeignPods(node) if isinstance(node, ForeignNode) else Pods(node)
    try:
        yield made
    finally:
        made.remove_all()


@pytest.fixture(autouse=True)
def nothing_leaks(node: Node) -> Iterator[None]:
    """Whatever a session does to our server, the host is as before when its pods are gone."""
    if isinstance(node, ForeignNode):
        yield
        return
    before = leaks.held(node)
    yield
    leaked = leaks.compare(node, before)
    assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{node.log()}"
    assert "a bug" not in node.log(), node.log()


@pytest.fixture
def sandbox(node: Node, pods: Pods) -> str:
    """A pod."""
    return pods.run()


@pytest.fixture
def line(node: Node) -> Callable[..., list[str]]:
    """The command line of one of ocishim's commands for this server."""

    def made(command: str, *arguments: str) -> list[str]:
        server = ["--runtime-endpoint", f"unix://{node.socket}"]
        return [*OWN_SIGNALS, sys.executable, "-m", "ocishim", command, *server, *arguments]

    return made
