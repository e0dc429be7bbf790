"""Which gRPC code an error is (DESIGN: the contract with kubelet, which reads codes)."""

from __future__ import annotations

import errno
from typing import Final

from grpclib.const import Status

from ocishim import errors

_CODES: Final = (
    (errors.InvalidArgument, Status.INVALID_ARGUMENT),
    (errors.NotFound, Status.NOT_FOUND),
    (errors.AlreadyExists, Status.ALREADY_EXISTS),
    (errors.FailedPrecondition, Status.FAILED_PRECONDITION),
    (errors.PermissionDenied, Status.PERMISSION_DENIED),
    (errors.Unauthenticated, Status.UNAUTHENTICATED),
    (errors.ResourceExhausted, Status.RESOURCE_EXHAUSTED),
    (errors.DeadlineExceeded, Status.DEADLINE_EXCEEDED),
    (errors.Unavailable, Status.UNAVAILABLE),
    (errors.OcishimError, Status.INTERNAL),
)
_ERRNOS: Final = {
    errno.ENOSPC: Status.RESOURCE_EXHAUSTED,
    errno.EDQUOT: Status.RESOURCE_EXHAUSTED,
    errno.EMFILE: Status.RESOURCE_EXHAUSTED,
    errno.ENFILE: Status.RESOURCE_EXHAUSTED,
    errno.ENOMEM: Status.RESOURCE_EXHAUSTED,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
}


def is_expected(error: BaseException) -> bool:
    """Whether the error explains itself; anything else is a bug and its traceback belongs in the log."""
    return isinstance(error, errors.OcishimError | OSError)


def status_of(error: BaseException) -> tuple[Status, str]:
    """The code and the message that the client gets. Follows the cause: a full disk is one, whoever met it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Status.INTERNAL)
    if code is Status.INTERNAL:
        at: BaseException | None = error
        while at is not None:
            if isinstance(at, OSError) and at.errno in _ERRNOS:
                code = _ERRNOS[at.errno]
                break
            at = at.__cause__
    if not is_expected(error):
        return code, f"internal error: {type(error).__name__}: {error} (a bug; the server's log has more)"
    return code, _words(error)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
