"""Files that come with the server and are data: in the source tree's bundles/, or installed to share/ocishim."""

from __future__ import annotations

import os
import sysconfig


def shipped(name: str) -> str:
    """Where the file is; the source tree's own where the server runs from one."""
    here = os.path.dirname(os.path.abspath(__file__))
    tree = f"{os.path.dirname(os.path.dirname(here))}/bundles/{name}"
    return tree if os.path.exists(tree) else f"{sysconfig.get_path('data')}/share/ocishim/{name}"
