"""A person at a terminal: a pty whose other end a test types into and reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0


class Terminal:
    """What is on it, and who is at work there."""

    def __init__(self, arguments: list[str], columns: int, rows: int) -> None:
        self._near, self._far = pty.openpty()
        self.resize(columns, rows)
        self.modes = self.modes_now()
        """How they were before."""
        # setsid makes the pty the program's controlling terminal, as a login does.
        self.process = subprocess.Popen(
            ["/usr/bin/setsid", "--ctty", *arguments], stdin=self._far, stdout=self._far, stderr=self._far
        )
        self.seen = ""

    def modes_now(self) -> list[Any]:
        """termios(3), without the speed of a line that has none."""
        return list(termios.tcgetattr(self._far))

    def set_modes(self, modes: list[Any]) -> None:
        """Have others, as if another program had set them."""
        termios.tcsetattr(self._far, termios.TCSANOW, modes)

    def wait_for_modes(self, modes: list[Any]) -> None:
        """Return once it has these."""
        deadline = time.monotonic() + PATIENCE
        while self.modes_now() != modes:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def resize(self, columns: int, rows: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._near, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._near, text.encode())

    def type_until(self, text: str, pattern: str) -> None:
        """Press keys again and again until the pattern is there."""
        for _ in range(20):
            self.type(text)
            try:
                self.wait_for(pattern, within=1.0)
            except AssertionError:
                continue
            return
        raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def wait_for(self, pattern: str, *, within: float = PATIENCE) -> re.Match[str]:
        """Read until the pattern is there; what was read up to its end is gone then."""
        deadline = time.monotonic() + within
        while (found := re.search(pattern, self.seen)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen!r}"
            if select.select([self._near], [], [], left)[0]:
                self.seen += os.read(self._near, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def wait_for_end(self) -> int:
        """The exit code."""
        return self.process.wait(timeout=PATIENCE)

    def close(self) -> None:
        """Take it away."""
        self.process.kill()
        self.process.wait()
        os.close(self._near)
        os.close(self._far)


@contextmanager
def at_terminal(arguments: list[str], *, columns: int = 91, rows: int = 37) -> Iterator[Terminal]:
    """A program at a terminal of its own."""
    made = Terminal(arguments, columns, rows)
    try:
        yield made
    finally:
        made.close()
