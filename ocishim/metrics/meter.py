"""What the server tells of its own work, wherever it does some. This meter counts nothing, as is the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Meter:
    """Told of everything worth counting; each call is cheap and never fails."""

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """An RPC has been answered, with a gRPC code by name."""

    def cni(self, plugin: str, verb: str, seconds: float, *, failed: bool) -> None:
        """A CNI plugin has been called."""

    def pull(self, size: int, seconds: float, *, failed: bool) -> None:
        """An image pull has ended, having fetched so many bytes."""

    def finding(self, kind: str) -> None:
        """The start after a crash or reboot has found something amiss and mended it."""

    def watch(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show a gauge by that name, read anew each time in a thread, with one sample for each value of the label."""
