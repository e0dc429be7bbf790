"""This machine as images name it."""

from __future__ import annotations

import platform
from typing import Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_VARIANTS: Final = {"aarch64": "v8", "armv7l": "v7"}


def architecture() -> str:
    """Go's name of the kernel's architecture, which images use."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def variant() -> str:
    """The variant of it, where there are several."""
    return _VARIANTS.get(platform.machine(), "")
