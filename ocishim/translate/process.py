"""What a container runs: arguments, environment, working directory, stop signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from ocishim.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.api.runtime import v1
    from ocishim.translate.facts import Identity, ImageFacts

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PREFIX: Final = "SIGNAL_"
_RTMIN, _RTMAX = 34, 64


def arguments(config: v1.ContainerConfig, image: ImageFacts) -> list[str]:
    """command replaces ENTRYPOINT and drops CMD, args replaces CMD. InvalidArgument for nothing to run."""
    line = [*config.command, *config.args] if config.command else [*image.entrypoint, *(config.args or image.cmd)]
    if not line or not line[0]:
        raise InvalidArgument("config.command: neither the request nor the image says what to run")
    return line


def environment(
    config: v1.ContainerConfig,
    image: ImageFacts,
    identity: Identity,
    hostname: str,
    *,
    defaults: Iterable[str] = (),
) -> list[str]:
    """One value a name: defaults, the image's over them, the request's over those."""
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    variables |= dict(entry.split("=", 1) for entry in defaults)
    if config.tty:
        variables["TERM"] = "xterm"
    for entry in image.env:
        key, separator, value = entry.partition("=")
        if key and separator:
            variables[key] = value
    for variable in config.envs:
        variables[variable.key] = variable.value.decode("utf-8", "surrogateescape")
    variables.setdefault("HOME", identity.home)
    return [f"{key}={value}" for key, value in variables.items()]


def working_directory(config: v1.ContainerConfig, image: ImageFacts) -> str:
    """The request's, else the image's, else the root."""
    chosen = config.working_dir or image.working_dir or "/"
    return chosen if chosen.startswith("/") else f"/{chosen}"


def stop_signal(config: v1.ContainerConfig, image: ImageFacts) -> int:
    """The request's signal, else the image's, else SIGTERM; an image's nonsense counts as none."""
    asked = (config.stop_signal.name or "").removeprefix(_PREFIX)
    name = asked if config.stop_signal else image.stop_signal
    return parse_signal(name) or int(signal.SIGTERM)


def parse_signal(name: str) -> int | None:
    """A number, or a name with or without SIG; RTMIN+n, RTMINPLUSn and their likes too. None for nonsense."""
    text = name.strip().upper()
    if text.isascii() and text.isdigit():
        number = int(text)
        return number if 1 <= number <= _RTMAX else None
    text = text.removeprefix("SIG").replace("PLUS", "+").replace("MINUS", "-")
    for base, start, sign in (("RTMIN", _RTMIN, "+"), ("RTMAX", _RTMAX, "-")):
        if text.startswith(base):
            offset = text.removeprefix(base).removeprefix(sign) or "0"
            number = start + int(offset) * (1 if sign == "+" else -1) if offset.isdigit() else 0
            return number if _RTMIN <= number <= _RTMAX else None
    found = signal.Signals.__members__.get(f"SIG{text}")
    return int(found) if found is not None else None
