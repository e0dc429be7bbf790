"""What conmon writes: the answer on its sync pipe, and exit files."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Created:
    """The runtime has made the container; this is its init process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The runtime would not; these are its words as it wrote them."""

    message: str


def parse_sync(line: bytes) -> Created | Refused:
    """One line of the sync pipe: {"pid": N} or {"pid": -1, "message": "…"}.

    Raises ValueError where it is neither.
    """
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise TypeError("not an object")
    pid = answer.get("pid", answer.get("data"))
    if not isinstance(pid, int):
        raise TypeError("no pid in it")
    if pid > 0:
        return Created(pid)
    return Refused(str(answer.get("message", "")))


def parse_exit_file(content: bytes) -> int:
    """The exit code as conmon writes it, 128 + signal for a killed process. Raises ValueError."""
    code = int(content.decode("ascii").strip())
    if not -1 <= code <= 255:  # noqa: PLR2004 - the range of wait statuses
        raise ValueError(f"{code} is no exit code")
    return code & 0xFF
