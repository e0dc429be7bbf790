"""Writes ocishim/api from proto/: run by `./dev proto` in place, by its test into a temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
API = TOP / "ocishim" / "api"
FIRST = "proto/runtime/v1alpha1/api.proto"
DOCSTRING = '"""Generated from proto/ by `./dev proto`; never edited by hand."""\n'


def generate(into: Path) -> None:
    """Write the Python package of every file under proto/ to the existing directory `into`.

    Raises CalledProcessError, its stderr shown, when protoc or its plugin refuses a file.
    """
    sources = {str(path.relative_to(TOP)) for path in (TOP / "proto").rglob("*.proto")}
    # The first version's package is `runtime`, whose place is above all others, to be loaded with each of them.
    with tempfile.TemporaryDirectory(dir=into, prefix=".first-") as scratch:
        compile_into(Path(scratch), [FIRST])
        compile_into(into, sorted(sources - {FIRST}))
        (into / "runtime" / "v1alpha1").mkdir()
        shutil.move(Path(scratch) / "runtime" / "__init__.py", into / "runtime" / "v1alpha1" / "__init__.py")
    (into / "__init__.py").write_text(DOCSTRING, encoding="utf-8")


def compile_into(directory: Path, sources: list[str]) -> None:
    """What protoc makes of the files."""
    tools = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"--python_betterproto_out={directory}", *sources]
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    subprocess.run(command, cwd=TOP, env=environment, check=True)


def sources_of(package: Path) -> dict[str, str]:
    """Text of every Python file below `package`, by its path there."""
    return {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}


def main() -> None:
    """Replace ocishim/api, only once all of it is generated."""
    with tempfile.TemporaryDirectory(dir=TOP / "ocishim", prefix=".api-") as scratch:
        new = Path(scratch) / "api"
        new.mkdir()
        generate(new)
        shutil.rmtree(API, ignore_errors=True)
        new.rename(API)


if __name__ == "__main__":
    main()
