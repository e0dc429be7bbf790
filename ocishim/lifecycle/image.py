"""Images as the CRI sees them: pulled once however many ask, loaded from layouts, removed with all their tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.errors import InvalidArgument
from ocishim.images.layout import load
from ocishim.spec import reference

if TYPE_CHECKING:
    from ocishim.images.pull import Puller
    from ocishim.images.registry import Credentials
    from ocishim.images.store import ImageRecord
    from ocishim.lifecycle.node import Node


class Registries:
    """The registry client, made by the first pull: a server that pulls nothing need not load an HTTP client."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._puller: Puller | None = None

    def puller(self) -> Puller:
        """The client."""
        if self._puller is None:
            from ocishim.images.pull import Puller  # noqa: PLC0415 - a third of the start-up time

            self._puller = Puller(self._node.images, self._node.settings.images)
        return self._puller

    async def close(self) -> None:
        """End its connections."""
        if self._puller is not None:
            await self._puller.close()


async def pull_image(node: Node, registries: Registries, name: str, credentials: Credentials | None) -> ImageRecord:
    """Fetch an image, or join the pull of it that is under way with the same credentials."""
    if not name:
        raise InvalidArgument("image.image is required")
    wanted = " or ".join(str(each) for each in reference.candidates(name, node.settings.images.short_names))
    return await node.jobs.run(
        ("pull", wanted, credentials),
        f"PullImage {wanted}",
        None,
        lambda: registries.puller().pull(name, credentials),
    )


async def load_images(node: Node, path: str, name: str | None) -> list[ImageRecord]:
    """Take in every image of an OCI layout on this host."""
    if not path.startswith("/"):
        raise InvalidArgument(f"path: {path!r} is not absolute")
    return await node.jobs.run(("load", path, name), f"Load {path}", None, lambda: load(node.images, path, name))


async def remove_image(node: Node, name: str) -> None:
    """Remove an image with all its tags; content where it is not there. Containers keep the layers they use."""
    if not name:
        raise InvalidArgument("image.image is required")
    await node.jobs.run(("remove-image", name), f"RemoveImage {name}", None, lambda: node.images.remove(name))
