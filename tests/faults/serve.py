"""The server with a watcher at its seam: `python -m faults.serve DIRECTORY serve --config FILE`.

DIRECTORY/plan.json says what shall happen, and is looked at whenever there is an effect; DIRECTORY/seen gets a line for
each effect while there is a plan.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

from faults.plan import Plan
from ocishim import effects
from ocishim.cli import main

_ID = re.compile(r"[0-9a-f]{64}")
_VERBS = frozenset({"create", "start", "state", "delete", "exec", "kill", "update", "checkpoint", "restore"})


class Watcher:
    """Does what the plan says at the point it names."""

    def __init__(self, directory: Path) -> None:
        self._plan = directory / "plan.json"
        self._seen = directory / "seen"
        self._read: tuple[int, Plan] | None = None
        self._counts: Counter[str] = Counter()

    def before(self, effect: str, arguments: tuple[object, ...]) -> float:
        """What effects.Watcher asks for."""
        plan = self._current()
        if plan is None:
            return 0.0
        name = f"{effect} {_about(arguments)}".strip()
        self._counts[name] += 1
        point = f"{name} #{self._counts[name]}"
        with self._seen.open("a") as file:
            file.write(f"{point}\n")
        if point != plan.point:
            return 0.0
        if plan.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if plan.fault == "error":
            raise OSError(errno.EIO, "an error made by a test", name)
        return plan.seconds

    def after(self, effect: str, arguments: tuple[object, ...]) -> None:
        """Nothing: what is after one effect is before the next."""

    def _current(self) -> Plan | None:
        try:
            written = self._plan.stat().st_mtime_ns
        except FileNotFoundError:
            self._read = None
            return None
        if self._read is None or self._read[0] != written:
            self._counts.clear()
            self._read = (written, Plan.read(self._plan))
        return self._read[1]


def _about(arguments: tuple[object, ...]) -> str:
    """What tells one effect from another in every run: names without ids."""
    first = arguments[0] if arguments else ""
    if isinstance(first, list | tuple):
        words = [str(word) for word in first]
        about = f"{os.path.basename(words[0])} {' '.join(word for word in words[1:] if word in _VERBS)}"
        command = next((str(each) for each in arguments[1:] if str(each).startswith("CNI ")), "")
        return f"{about} {command.split(' of ')[0]}".strip()
    if isinstance(first, str):
        path = _ID.sub("ID", first)
        return "/".join(path.split("/")[-2:])
    return ""


if __name__ == "__main__":
    effects.watch(Watcher(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
