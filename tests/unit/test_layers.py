"""The walls between the packages: imports go down the table only, and what decides never acts."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parents[2] / "ocishim"

# Upper rows import lower rows only; rooms that share a row do not know each other.
ROWS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("daemon", "check", "client"),
    ("dump", "logs"),
    ("cri",),
    ("lifecycle",),
    ("streaming",),
    ("runtime", "network", "images", "metrics", "store"),
    ("linux",),
    ("tracing",),
    ("translate",),
    ("protocol",),
    ("spec",),
    ("api",),
    ("model",),
    ("config",),
    ("errors",),
    ("effects",),
    ("",),  # ocishim/__init__.py: the version, and nothing else
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}

PURE = ("translate", "protocol", "spec")
EFFECTS = ("asyncio", "os", "subprocess", "socket", "threading", "ctypes")


def room_of(file: Path) -> str:
    """The package or top-level module of ocishim that `file` belongs to."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module or member that `file` imports, at whatever depth and for whatever reason."""
    package = ("ocishim", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def rooms_entered(file: Path) -> Iterator[tuple[int, str, str]]:
    """Line, name and room of every import of ocishim's own."""
    for line, name in imports_of(file):
        head, _, rest = name.partition(".")
        if head == "ocishim":
            room = rest.split(".")[0]
            is_room = (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()
            yield line, name, room if is_room else ""


def breach(file: Path, room: str, entered: str) -> bool:
    if room == entered:
        return False
    return entered not in LEVEL or LEVEL[entered] <= LEVEL.get(room, len(ROWS))


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_row() -> None:
    assert {room_of(file) for file in FILES} <= LEVEL.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file: Path) -> None:
    room = room_of(file)
    breaches = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {name}: {room or 'the top'} is not above {entered}"
        for line, name, entered in rooms_entered(file)
        if breach(file, room, entered)
    ]
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize(
    "file", [file for file in FILES if room_of(file) in PURE], ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_what_is_pure_has_no_means_to_act(file: Path) -> None:
    means = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {name}"
        for line, name in imports_of(file)
        if name.split(".")[0] in EFFECTS
    ]
    assert not means, "\n".join(means)
