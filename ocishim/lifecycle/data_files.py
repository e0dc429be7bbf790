"""Files that operators and vendors keep on the host for containers: seccomp profiles, CDI files, OCI hooks.

All functions block on the disk and are meant for a worker thread.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import yaml

from ocishim.errors import FailedPrecondition
from ocishim.linux.remembered import Remembered
from ocishim.spec.cdi import CdiSpec, parse_cdi
from ocishim.spec.hooks import HookFile, parse_hook
from ocishim.translate import seccomp
from ocishim.translate.cdi import CdiFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ocishim.spec.seccomp import Profile

_LARGEST: Final = 8 << 20


def _cdi(content: bytes, path: str) -> CdiSpec:
    try:
        document: object = json.loads(content) if path.endswith(".json") else yaml.safe_load(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if path.endswith(".json") else "YAML"
        raise ValueError(f"not {kind}: {' '.join(str(error).split())}") from error
    return parse_cdi(document)


def _hook(content: bytes, path: str) -> HookFile:  # noqa: ARG001 - all parsers are called alike
    return parse_hook(content)


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Those read so far."""

    profiles: Remembered[Profile] = field(default_factory=lambda: Remembered(seccomp.parse, limit=_LARGEST))
    cdi: Remembered[CdiSpec] = field(default_factory=lambda: Remembered(_cdi, limit=_LARGEST))
    hooks: Remembered[HookFile] = field(default_factory=lambda: Remembered(_hook, limit=_LARGEST))

    def seccomp_profile(self, path: str) -> Profile:
        """Raises FailedPrecondition where it cannot be read, InvalidArgument where it is none."""
        try:
            return self.profiles.read(path)
        except OSError as error:
            raise FailedPrecondition(f"seccomp profile {path} cannot be read: {error.strerror or error}") from error

    def cdi_files(self, directories: Iterable[str]) -> tuple[list[CdiFile], dict[str, str]]:
        """All CDI files of the directories, later ones with the higher priority, and why others cannot be used."""
        good: list[CdiFile] = []
        bad: dict[str, str] = {}
        for priority, directory in enumerate(directories):
            for path in _files(directory, (".json", ".yaml")):
                try:
                    good.append(CdiFile(path, priority, self.cdi.read(path)))
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    bad[path] = str(error)
        return good, bad

    def hook_files(self, directories: Iterable[str]) -> dict[str, HookFile]:
        """All hook files by name, those of later directories before others of their name.

        Raises FailedPrecondition for one that is none: what it is for might be what keeps a container in.
        """
        found: dict[str, HookFile] = {}
        for directory in directories:
            for path in _files(directory, (".json",)):
                try:
                    found[os.path.basename(path)] = self.hooks.read(path)
                except (OSError, ValueError) as error:
                    raise FailedPrecondition(f"hook file {path} cannot be used: {error}") from error
        return found


def _files(directory: str, endings: tuple[str, ...]) -> Iterator[str]:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (f"{directory}/{name}" for name in names if name.endswith(endings) and not name.startswith("."))
