"""CheckpointContainer and CheckpointPod: processes by the runtime and CRIU, files from the writable layer, one archive.

A container is paused while its processes and files are read, and goes on whatever came of it. Nothing is left of an
attempt that failed: neither a file nor a paused container, not even where the server died in it (`undo`).
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, InvalidArgument, OcishimError
from ocishim.lifecycle.container_mounts import shift_of
from ocishim.lifecycle.container_stop import stop_container
from ocishim.lifecycle.jobs import step
from ocishim.linux import files
from ocishim.linux.uncancelled import to_the_end
from ocishim.spec import checkpoint as spec
from ocishim.spec.runtime import RuntimeSpec
from ocishim.translate import restore as documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

log = logging.getLogger(__name__)

_LONGEST: Final = 86400.0
"""Seconds that a checkpoint gets whose request has no timeout."""
_LOG_TAIL: Final = 64 << 10


async def checkpoint_container(node: Node, container: Container, location: str, within: float) -> None:
    """Write a running container's state into a new archive, leaving it running; `within` seconds, 0 for no limit.

    Raises FailedPrecondition in the runtime's own words where it or CRIU cannot.
    """
    await _check_target("location", location)
    _must_run(container)
    await node.jobs.run(
        ("checkpoint", container.id),
        f"CheckpointContainer of {container.title}",
        location,
        lambda: _checkpoint(node, container, location, within or _LONGEST),
    )


async def _checkpoint(node: Node, container: Container, location: str, within: float) -> None:
    async with container.checkpointing, _workspace(node, container) as directory:
        async with _paused(node, container):
            await _dump(node, container, directory, within)
        await _write_archive(container, directory, location)


async def checkpoint_sandbox(
    node: Node, sandbox: Sandbox, location: str, chosen: Sequence[Container], *, leave_running: bool
) -> None:
    """Write the state of a pod's running containers, all paused at once, into a directory; its files appear whole."""
    await _check_target("output_path", location)
    running = [each for each in node.containers_of(sandbox.id) if each.status.is_running]
    containers = list(dict.fromkeys(chosen)) or running
    if not containers:
        raise FailedPrecondition(f"{sandbox.title} has no running container to checkpoint")
    if len({_file(each) for each in containers}) < len(containers):
        raise FailedPrecondition(f"{sandbox.title} has running containers of the same name: name one of them")
    for container in containers:
        _must_run(container)
    await node.jobs.run(
        ("checkpoint-pod", sandbox.id),
        f"CheckpointPod of {sandbox.title}",
        (location, tuple(each.id for each in containers), leave_running),
        functools.partial(_checkpoint_sandbox, node, sandbox, location, containers, leave_running=leave_running),
    )


async def _checkpoint_sandbox(
    node: Node, sandbox: Sandbox, location: str, containers: Sequence[Container], *, leave_running: bool
) -> None:
    made = await asyncio.to_thread(_make_directory, location)
    written: list[str] = []
    try:
        async with AsyncExitStack() as stack:
            directories = []
            for container in containers:
                await stack.enter_async_context(container.checkpointing)
                directories.append(await stack.enter_async_context(_workspace(node, container)))
            async with AsyncExitStack() as pauses:
                for container in containers:
                    await pauses.enter_async_context(_paused(node, container))
                for container, directory in zip(containers, directories, strict=True):
                    await _dump(node, container, directory, _LONGEST)
            for container, directory in zip(containers, directories, strict=True):
                written.append(f"{location}/{_file(container)}")
                await _write_archive(container, directory, written[-1])
        with step("write what pod it is"):
            written += [f"{location}/{name}" for name in (spec.POD, spec.POD_OPTIONS)]
            await to_the_end(asyncio.to_thread(_write_pod, sandbox, location, containers))
    except BaseException:
        await to_the_end(asyncio.to_thread(_remove, written, location if made else ""))
        raise
    if not leave_running:
        await asyncio.gather(*(stop_container(node, container, 0) for container in containers))


async def _check_target(field: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{field}: {path!r} is not an absolute path")
    if not await asyncio.to_thread(os.path.isdir, os.path.dirname(path)):
        raise InvalidArgument(f"{field}: {path!r} is in no directory that there is")


def _must_run(container: Container) -> None:
    if not container.status.is_running:
        raise FailedPrecondition(f"{container.title} is not running: there is nothing to checkpoint")


@asynccontextmanager
async def _workspace(node: Node, container: Container) -> AsyncIterator[str]:
    """A directory for the checkpoint in the making; while it is there, the container may be paused."""
    directory = node.layout.container(container.metadata.id).checkpoint
    await asyncio.to_thread(os.mkdir, directory, 0o700)
    try:
        yield directory
    finally:
        await to_the_end(asyncio.to_thread(files.remove_tree, directory))


@asynccontextmanager
async def _paused(node: Node, container: Container) -> AsyncIterator[None]:
    runtime = node.runtime_of(container)
    is_paused = False
    try:
        try:
            with step(f"pause by {runtime.name}"):
                await runtime.pause(container.id)
            is_paused = True
        except OcishimError as error:
            raise _refusal(container, error) from error
        yield
    finally:
        await to_the_end(_resume(node, container, expected=is_paused))


async def _resume(node: Node, container: Container, *, expected: bool) -> None:
    try:
        await node.runtime_of(container).resume(container.id)
    except OcishimError as error:
        if expected and container.status.is_running:
            log.error("%s cannot be resumed after its checkpoint: %s", container.title, error)  # noqa: TRY400 - no bug


async def undo(node: Node, container: Container) -> None:
    """Let a container go on that the server was checkpointing when it died."""
    directory = node.layout.container(container.metadata.id).checkpoint
    if await asyncio.to_thread(os.path.isdir, directory):
        log.info("%s was being checkpointed when the server ended: it goes on", container.title)
        if container.status.is_running:
            await _resume(node, container, expected=False)
        await asyncio.to_thread(files.remove_tree, directory)


async def _dump(node: Node, container: Container, directory: str, within: float) -> None:
    runtime = node.runtime_of(container)
    with step("write what container it is"):
        try:
            skip = await asyncio.to_thread(_write_documents, node, container, directory)
        except FailedPrecondition as error:
            raise _refusal(container, error) from error
    with step(f"checkpoint by {runtime.name}"):
        try:
            await runtime.checkpoint(container.id, images=f"{directory}/{spec.IMAGES}", work=directory, within=within)
        except OcishimError as error:
            said = await asyncio.to_thread(_last_error, f"{directory}/{spec.DUMP_LOG}")
            raise _refusal(container, f"{error}{said}") from error
    with step("gather what it has changed of its image"):
        await to_the_end(asyncio.to_thread(_gather, node, container, directory, skip))


def _refusal(container: Container, error: object) -> FailedPrecondition:
    return FailedPrecondition(f"{container.title} cannot be checkpointed: {error}")


def _write_documents(node: Node, container: Container, directory: str) -> list[str]:
    """Returns the places that mounts cover."""
    metadata = container.metadata
    paths = node.layout.container(metadata.id)
    with open(paths.spec, "rb") as file:
        bundle = RuntimeSpec.model_validate_json(file.read())
    sandbox = node.sandbox(metadata.sandbox_id).metadata
    image = node.images.find(metadata.image_id)
    name = next(iter((*image.digests, *image.tags)), "") if image else ""
    config = documents.config_dump(metadata, sandbox, name, time.time_ns())
    foreign = documents.foreign_mounts((each.type, each.source, each.destination) for each in bundle.mounts)
    binds = [_bind_mount(source, destination) for source, destination in foreign]
    os.mkdir(f"{directory}/{spec.IMAGES}", 0o700)
    _put(directory, spec.CONFIG, config.model_dump_json(by_alias=True).encode())
    _put(directory, spec.SPEC, documents.spec_dump(bundle, metadata, container.config).to_json())
    _put(directory, spec.BIND_MOUNTS, json.dumps([each.model_dump() for each in binds]).encode())
    return [each.destination for each in bundle.mounts]


def _bind_mount(source: str, destination: str) -> spec.BindMount:
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise FailedPrecondition(
            f"what is mounted at {destination} cannot be looked at: {source}: {error.strerror}"
        ) from error
    kind = "directory" if os.path.isdir(source) else "file"
    return spec.BindMount(source=source, destination=destination, file_type=kind, permissions=mode & 0o777)


def _put(directory: str, name: str, content: bytes) -> None:
    files.write_atomic(f"{directory}/{name}", content, durable=False)


def _gather(node: Node, container: Container, directory: str, skip: Sequence[str]) -> None:
    from ocishim.images.changes import gather  # noqa: PLC0415 - brings libarchive

    metadata = container.metadata
    layers, shift = node.images.stack(metadata.diff_ids), shift_of(node, node.sandbox(metadata.sandbox_id))
    kind = node.rootfs.kind_for(layers, shift)
    deleted = gather(
        node.layout.container(metadata.id).upper,
        layers.paths,
        f"{directory}/{spec.ROOTFS}",
        skip=skip,
        whole=kind == "copy",
        markers=kind == "fuse-overlayfs",
        mappings=shift.mappings if shift else None,
    )
    _put(directory, spec.DELETED, json.dumps(deleted).encode())


def _last_error(path: str) -> str:
    """CRIU's own last word, where it left one."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_LOG_TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = [line for line in lines if "Error" in line]
    return f" ({found[-1].strip()})" if found else ""


async def _write_archive(container: Container, directory: str, target: str) -> None:
    with step("write the archive"):
        await to_the_end(asyncio.to_thread(_archive, directory, target, container.metadata.log_path))


def _archive(directory: str, target: str, container_log: str) -> None:
    from ocishim.images.checkpoint import write  # noqa: PLC0415 - as above

    write(directory, target, container_log)


def _file(container: Container) -> str:
    return f"{container.metadata.name}.tar"


def _make_directory(path: str) -> bool:
    """Whether it was missing; only its last part is made."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.listdir(path):
            raise FailedPrecondition(f"output_path: {path} is not empty") from None
        return False
    return True


def _write_pod(sandbox: Sandbox, location: str, containers: Sequence[Container]) -> None:
    options = spec.PodOptions(containers={each.metadata.name: _file(each) for each in containers})
    files.write_atomic(f"{location}/{spec.POD}", sandbox.config.to_json().encode())
    files.write_atomic(f"{location}/{spec.POD_OPTIONS}", options.model_dump_json().encode())


def _remove(written: Sequence[str], directory: str) -> None:
    for path in written:
        files.unlink(path)
    if directory:
        os.rmdir(directory)
