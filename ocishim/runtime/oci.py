"""The OCI runtime's command line: what runc and crun, and all that imitate them, understand.

`create` is conmon's to call (runtime/conmon.py).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ocishim import tracing
from ocishim.errors import OperationFailed
from ocishim.linux import process
from ocishim.protocol import runtime_error
from ocishim.runtime.abilities import Abilities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocishim.config import RuntimeSettings
_LOG_LIMIT: Final = 64 << 10


class RuntimeState(BaseModel):
    """The answer of `RUNTIME state`, as much of it as is used (runtime-spec, runtime.md, State)."""

    model_config = ConfigDict(extra="ignore")

    status: str
    pid: int = 0
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """One runtime: its name here, its program, where it keeps its state, and seconds a call may take."""

    name: str
    path: str
    root: str
    timeout: float
    settings: RuntimeSettings | None = None
    """What the operator has chosen for it; None for one that was found without being configured."""
    abilities: Abilities = field(default_factory=Abilities)

    @property
    def is_vm(self) -> bool:
        """Whether a pod's containers share a sandbox that the runtime makes with the first of them."""
        return self.settings is not None and self.settings.type == "vm"

    def argv(self, *arguments: str) -> list[str]:
        """The command line for arguments."""
        return [self.path, "--root", self.root, *arguments]

    async def start(self, container_id: str) -> None:
        """Start the user's process of a created container. Raises OperationFailed in the runtime's words."""
        await self._call("start", container_id)

    async def delete(self, container_id: str) -> None:
        """Kill what is left and drop the runtime's state; content where it knows no such container."""
        try:
            await self._call("delete", "--force", container_id)
        except OperationFailed:
            if await self.state(container_id) is not None:
                raise

    async def pause(self, container_id: str) -> None:
        """Freeze all of a running container. Raises OperationFailed in the runtime's words, like the next two."""
        await self._call("pause", container_id)

    async def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        await self._call("resume", container_id)

    async def checkpoint(self, container_id: str, *, images: str, work: str, within: float) -> None:
        """Write the processes' state to the directory `images` and logs to `work`, and leave them as they are."""
        paths = ("--image-path", images, "--work-path", work)
        await self._call("checkpoint", *paths, "--leave-running", container_id, within=within)

    async def state(self, container_id: str) -> RuntimeState | None:
        """What the runtime knows of the container; None where it knows none."""
        finished = await process.run(
            self.argv("state", container_id), what=f"state of container {container_id}", within=self.timeout
        )
        if finished.returncode != 0:
            return None
        try:
            return RuntimeState.model_validate_json(finished.stdout)
        except ValidationError as error:
            raise OperationFailed(
                f"container {container_id}: {self.path} state answered nonsense: {finished.stdout[:200]!r}"
            ) from error

    async def _call(self, verb: str, *arguments: str, within: float = 0.0) -> None:
        what = f"container {arguments[-1]}: {self.name} {verb}"
        with tracing.span(f"runtime {verb}", runtime=self.name, container=arguments[-1]):
            finished = await process.run(self.argv(verb, *arguments), what=what, within=within or self.timeout)
        if finished.returncode != 0:
            raise OperationFailed(f"{what}: {runtime_error.words(finished.words())}")


@contextmanager
def log_file() -> Iterator[int]:
    """A file in memory for the runtime's own words, apart from what a command writes; pass it on as --log."""
    fd = os.memfd_create("runtime.log", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def logged(fd: int) -> bytes:
    """What the runtime wrote to its log_file."""
    return os.pread(fd, _LOG_LIMIT, 0)


@contextmanager
def process_file(content: bytes) -> Iterator[int]:
    """A file in memory with the process to exec; pass it on and name it /proc/self/fd/N."""
    fd = os.memfd_create("process.json", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
