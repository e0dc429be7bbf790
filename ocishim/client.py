"""A client of the server's own socket, for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ocishim.api.ocishim import v1 as own
from ocishim.errors import OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


async def load_images(address: str, path: str, reference: str) -> Sequence[own.LoadedImage]:
    """Have the server at address (unix:///PATH) load a layout. Raises OperationFailed in the server's words."""
    channel = Channel(path=address.removeprefix("unix://"))
    try:
        response = await own.ImagesStub(channel).load(own.LoadRequest(path=path, reference=reference))
    except GRPCError as error:
        raise OperationFailed(f"{path}: {error.message} ({error.status.name})") from error
    except (OSError, StreamTerminatedError) as error:
        raise Unavailable(f"no server answers on {address} ({error}); start one with `ocishim serve`") from error
    finally:
        channel.close()
    return response.images
