"""What shall happen at one point of an operation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from pathlib import Path

Fault = Literal["none", "kill", "error", "stall"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault before one effect."""

    point: str = ""
    fault: Fault = "none"
    seconds: float = 0.0
    """That it stalls."""

    def write(self, path: Path) -> None:
        """Put it where the server looks, in one step."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.rename(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What was written."""
        return cls(**json.loads(path.read_text()))
