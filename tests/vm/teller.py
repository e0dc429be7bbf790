"""Tells the user what happens, and how long after the start."""

from __future__ import annotations

import sys
import time


class Teller:
    """Two kinds of lines on standard output: ours, with the time, and the guest's as they are."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line of ours."""
        self.show(f"vm: {time.monotonic() - self._began:6.1f} s  {text}\n")

    def show(self, text: str) -> None:
        """What the guest writes, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()
