"""`./dev test-vm`: make the guest if it is not there, run the checkout's tests in it, and end with their exit code."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vm import image, machine, plan
from vm.teller import Teller

if TYPE_CHECKING:
    from types import FrameType

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".vm"
NICENESS = 19
INTERRUPTED = 130


def main() -> int:
    """Run everything; returns the exit code."""
    wanted = plan.options(sys.argv[1:])
    if platform.machine() != "x86_64":
        sys.stderr.write(f"vm: makes guests for x86-64 on such a machine only; this one is {platform.machine()}\n")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    os.nice(NICENESS)
    teller = Teller()
    try:
        requirements = plan.requirements((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
        guest = image.Cache(CACHE, teller).guest(plan.guest_packages(wanted.packages), requirements)
        code = machine.run(guest, wanted, checkout=CHECKOUT, cache=CACHE, teller=teller)
    except KeyboardInterrupt:
        teller.say("interrupted: ended the guest")
        return INTERRUPTED
    except (image.BuildError, OSError) as error:
        sys.stderr.write(f"vm: {error}\n")
        return 1
    teller.say(f"done, with exit code {code}")
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
