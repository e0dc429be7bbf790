"""A store on a real file system, a place outside it, and mounts that go away."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocishim.images import overlay
from ocishim.images.store import ImageStore
from ocishim.linux import mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a disk: /tmp may be a file system on which overlayfs has no upper layer."""
    if os.geteuid() != 0:
        pytest.skip("layers are unpacked as root")
    path = tempfile.mkdtemp(prefix="ocishim-images-", dir="/var/tmp")
    yield Path(path)
    mount.unmount_tree(path)
    shutil.rmtree(path)


@pytest.fixture
async def store(place: Path) -> ImageStore:
    """An empty store."""
    made = ImageStore(str(place / "images"))
    await made.open()
    return made


@pytest.fixture
def mounted(place: Path) -> Callable[[Sequence[str]], str]:
    """Mounts a stack of layers and says where."""

    def mount_layers(layers: Sequence[str]) -> str:
        home = tempfile.mkdtemp(prefix="rootfs-", dir=place)
        for name in ("upper", "work", "target"):
            os.mkdir(f"{home}/{name}")
        overlay.mount_overlay(layers, upper=f"{home}/upper", work=f"{home}/work", target=f"{home}/target")
        return f"{home}/target"

    return mount_layers


@pytest.fixture
def assert_nothing_stays(place: Path) -> Callable[[ImageStore], None]:
    """Nothing half done is in a store, and nothing of it in memory."""

    def check(store: ImageStore) -> None:
        assert os.listdir(f"{store.root}/incoming") == []
        assert os.listdir(f"{store.root}/layers") == []
        assert store.records() == []
        assert store.usage() == (0, 0)

    return check
