"""Commands that talk to a server: the connection, and signals that end them in good order."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

from ocishim import config
from ocishim.client import Client, connected
from ocishim.commands.parsing import SIGNALLED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

_ENDPOINT: Final = "CONTAINER_RUNTIME_ENDPOINT"
_IMAGE_ENDPOINT: Final = "IMAGE_SERVICE_ENDPOINT"
"""The environment's words for the options, as crictl has them."""
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def endpoint(chosen: argparse.Namespace) -> str:
    """The address of the server for pods and containers."""
    given: str | None = chosen.endpoint
    return given or os.environ.get(_ENDPOINT) or config.load(None).listen


def image_endpoint(chosen: argparse.Namespace) -> str:
    """The address of the server for images."""
    given: str | None = chosen.endpoint or os.environ.get(_IMAGE_ENDPOINT) or os.environ.get(_ENDPOINT)
    if given:
        return given
    settings = config.load(None)
    return settings.image_listen or settings.listen


def run(command: Callable[[Client, argparse.Namespace], Awaitable[int]], chosen: argparse.Namespace) -> int:
    """Run a command on a connection; returns its exit code."""
    return run_on(endpoint(chosen), command, chosen)


def run_on(
    address: str, command: Callable[[Client, argparse.Namespace], Awaitable[int]], chosen: argparse.Namespace
) -> int:
    """Run a command on the connection to an address; returns its exit code, 128 + N where signal N ends it."""
    return asyncio.run(_run(address, command, chosen))


async def _run(
    address: str, command: Callable[[Client, argparse.Namespace], Awaitable[int]], chosen: argparse.Namespace
) -> int:
    loop = asyncio.get_running_loop()
    own = asyncio.current_task()
    assert own is not None  # noqa: S101 - asyncio.run runs tasks
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        own.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, end, number)
    try:
        async with connected(address) as client:
            return await command(client, chosen)
    except asyncio.CancelledError:
        if not received:
            raise
        return SIGNALLED + received[0]
