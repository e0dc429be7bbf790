"""Records of one kind on disk: a directory an object, with metadata.json and status.json in it.

metadata.json is written before the object's first effect and never again; a directory without a readable one
is set aside, never deleted, and costs only itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import aiofiles
import aiofiles.os
from pydantic import ValidationError

from ocishim.linux import files
from ocishim.model import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

M = TypeVar("M", bound=Record)
S = TypeVar("S", bound=Record)

log = logging.getLogger(__name__)

ID: Final = re.compile(r"^[0-9a-f]{64}$")
_LARGEST: Final = 32 << 20
_WITHOUT_METADATA: Final = {"status.json", "status.json.tmp", "metadata.json.tmp"}


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M, S]):
    """An object found at start."""

    metadata: M
    status: S


class Records(Generic[M, S]):
    """The records of one kind."""

    def __init__(self, directory: str, set_aside: str, metadata: type[M], status: type[S]) -> None:
        self._directory = directory
        self._aside = set_aside
        self._metadata = metadata
        self._status = status
        self.set_aside: list[str] = []
        """Where records lie that could not be read."""

    async def create(self, record_id: str, metadata: M, status: S) -> None:
        """Put a new object on disk, its intent durable when this returns; on failure nothing stays."""
        await asyncio.to_thread(self._create, record_id, metadata, status)

    def _create(self, record_id: str, metadata: M, status: S) -> None:
        directory = f"{self._directory}/{record_id}"
        os.mkdir(directory, 0o700)
        try:
            _write(f"{directory}/status.json", status, durable=False)
            _write(f"{directory}/metadata.json", metadata, durable=True)
            files.sync_directory(self._directory)
        except BaseException:
            files.remove_tree(directory)
            raise

    async def update(self, record_id: str, status: S) -> None:
        """Replace the status, durable when this returns."""
        await asyncio.to_thread(_write, f"{self._directory}/{record_id}/status.json", status, durable=True)

    async def remove(self, record_id: str) -> None:
        """Remove the object and all files in its directory.

        The metadata goes last, so that a crash on the way leaves an object that can be removed again.
        """
        await asyncio.to_thread(self._remove, record_id)

    def _remove(self, record_id: str) -> None:
        directory = f"{self._directory}/{record_id}"
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        for name in names:
            if name != "metadata.json":
                files.remove_tree(f"{directory}/{name}")
        files.remove_tree(directory)

    async def read_text(self, record_id: str, name: str) -> str | None:
        """Another file of the object's, None where there is none; what is no UTF-8 is left for its parser to refuse."""
        path = f"{self._directory}/{record_id}/{name}"
        try:
            async with aiofiles.open(path, encoding="utf-8", errors="replace") as file:
                return await file.read(_LARGEST)
        except FileNotFoundError:
            return None

    def load(self) -> Iterator[Loaded[M, S]]:
        """Every readable object; the others are set aside, with an error in the log. Blocks."""
        for name in sorted(os.listdir(self._directory)):
            if _is_unfinished(f"{self._directory}/{name}"):
                files.remove_tree(f"{self._directory}/{name}")
                continue
            try:
                yield self._load(name)
            except (OSError, ValueError) as error:
                self._put_aside(name, error)

    def _load(self, name: str) -> Loaded[M, S]:
        if not ID.match(name):
            raise ValueError("its name is no id")
        directory = f"{self._directory}/{name}"
        metadata = _read(f"{directory}/metadata.json", self._metadata)
        if metadata.model_dump().get("id") != name:
            raise ValueError("its metadata belongs to another id")
        status = _read(f"{directory}/status.json", self._status)
        return Loaded(metadata, status)

    def _put_aside(self, name: str, error: OSError | ValueError) -> None:
        target = f"{self._aside}/{os.path.basename(self._directory)}-{name}-{time.time_ns()}"
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        log.error("%s/%s cannot be read (%s): set aside as %s", self._directory, name, said, target)
        os.rename(f"{self._directory}/{name}", target)
        self.set_aside.append(target)


def _is_unfinished(directory: str) -> bool:
    """Whether a crash left it on the way in, before anything was made, or on the way out, after all was undone."""
    return os.path.isdir(directory) and set(os.listdir(directory)) <= _WITHOUT_METADATA


def _write(path: str, record: Record, *, durable: bool) -> None:
    files.write_atomic(path, record.model_dump_json().encode(), durable=durable)


def _read(path: str, kind: type[M]) -> M:
    with open(path, "rb") as file:
        return kind.model_validate_json(file.read(_LARGEST))
