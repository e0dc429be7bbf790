"""How a remote command ended: the Status document on the error channel of v4.channel.k8s.io and later.

It is Kubernetes' metav1.Status; a command's own exit code is in the details' cause whose reason is `ExitCode`.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

_SUCCESS: Final = "Success"
_NON_ZERO: Final = "NonZeroExitCode"
_EXIT_CODE: Final = "ExitCode"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Cause(_Part):
    reason: str = ""
    message: str = ""


class _Details(_Part):
    causes: list[_Cause] | None = None


class _Status(_Part):
    status: str
    message: str = ""
    reason: str = ""
    details: _Details | None = None


class Failed(Exception):  # noqa: N818 - an outcome rather than an error of ours
    """The command could not be run, or its end is not known; the message is the server's."""


def exit_code(document: bytes) -> int:
    """The command's exit code. Raises Failed where there is none."""
    try:
        status = _Status.model_validate_json(document)
    except ValidationError:
        raise Failed(document.decode("utf-8", "replace").strip() or "an empty status") from None
    if status.status == _SUCCESS:
        return 0
    if status.reason == _NON_ZERO and status.details is not None:
        for cause in status.details.causes or ():
            if cause.reason == _EXIT_CODE and cause.message.isascii() and cause.message.isdigit():
                return int(cause.message) & 0xFF
    raise Failed(status.message or status.reason or "no reason was given")
