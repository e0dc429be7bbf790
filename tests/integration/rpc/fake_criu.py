"""An OCI runtime that can checkpoint as far as files tell: `checkpoint` writes some, `restore` starts anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = r"""#!/bin/sh
verb=
for argument; do
    case $argument in checkpoint | restore) verb=$argument ;; esac
    last=$argument
done
[ -n "$verb" ] || exec RUNTIME "$@"
echo "$*" >> "$0.calls"
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2; shift ;;
    --root=*) root=${1#*=} ;;
    --image-path) images=$2; shift ;;
    --work-path) work=$2; shift ;;
    --bundle) bundle=$2; shift ;;
    --pid-file) pidfile=$2; shift ;;
    esac
    shift
done
while [ -e "$0.slow" ]; do sleep 0.1; done
if [ "$verb" = checkpoint ]; then
    RUNTIME --root "$root" state "$last" | grep '"status"' >> "$0.calls"
    echo "(00.0) Error (criu/fake.c:1): refused on purpose" > "$work/dump.log"
    if [ -e "$0.refuse" ]; then
        echo "criu failed: type DUMP errno 1" >&2
        exit 1
    fi
    echo "memory of $last" > "$images/pages-1.img"
    echo done > "$work/dump.log"
    exit 0
fi
if [ ! -s "$images/pages-1.img" ]; then
    echo "criu failed: type RESTORE: no pages" >&2
    exit 1
fi
RUNTIME --root "$root" create --bundle "$bundle" --pid-file "$pidfile" "$last" &&
    RUNTIME --root "$root" start "$last"
"""


def install(path: Path, runtime: str) -> None:
    """Put it there; beside it `.calls` tells what it was asked, `.refuse` makes it fail, `.slow` hang."""
    path.write_text(SCRIPT.replace("RUNTIME", f"/usr/bin/{runtime}"))
    path.chmod(0o755)
