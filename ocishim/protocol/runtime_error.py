"""What an OCI runtime says when it refuses: its words without log dressing, and the exit code they mean."""

from __future__ import annotations

import json
import re

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

_LOGRUS = re.compile(r'^time="[^"]*" level=\w+ msg=(?P<message>"(?:[^"\\]|\\.)*"|\S+)')
_NOT_FOUND = ("executable file not found", "not found in $path", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "open executable", "exec format error", "is a directory")


def words(output: str) -> str:
    """The runtime's own message: runc logs `time=… level=… msg="…"` lines, crun plain ones or JSON."""
    said: list[str] = []
    for line in output.splitlines():
        message = _message(line.strip())
        if message and message not in said:
            said.append(message)
    return "; ".join(said)


def _message(line: str) -> str:
    match = _LOGRUS.match(line)
    if match:
        quoted = match["message"]
        return _unquote(quoted) if quoted.startswith('"') else quoted
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            return line
        if isinstance(entry, dict) and isinstance(entry.get("msg"), str):
            return str(entry["msg"])
    return line


def _unquote(quoted: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], quoted[1:-1])


def command_exit_code(message: str) -> int | None:
    """The shell's code for a command that cannot be run (127 absent, 126 not executable), else None."""
    lowered = message.lower()
    if any(sign in lowered for sign in _NOT_FOUND):
        return EXIT_NOT_FOUND
    if any(sign in lowered for sign in _NOT_EXECUTABLE):
        return EXIT_NOT_EXECUTABLE
    return None
