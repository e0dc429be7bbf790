"""The errors that a client is told about, each with one meaning (cri/errors.py maps them to gRPC codes).

Anything else that escapes an operation is a bug and is reported as INTERNAL.
"""

from __future__ import annotations


class OcishimError(Exception):
    """An error that says what was tried, on what, what the other side answered, and what to do."""


class InvalidArgument(OcishimError):  # noqa: N818 - named as the gRPC code it stands for, like all below
    """A field of the request, a file or an image is not what it must be."""


class NotFound(OcishimError):  # noqa: N818
    """No sandbox, container, image or file goes by that name."""


class AlreadyExists(OcishimError):  # noqa: N818
    """The name is taken by something that differs from what was asked for."""


class FailedPrecondition(OcishimError):  # noqa: N818
    """The object, or the host, is in a state in which this cannot be done."""


class PermissionDenied(OcishimError):  # noqa: N818
    """The server, or the credentials it was given, may not do this."""


class Unauthenticated(OcishimError):  # noqa: N818
    """A registry wants credentials, or other ones."""


class ResourceExhausted(OcishimError):  # noqa: N818
    """A disk is full, a message too large or a configured limit reached."""


class DeadlineExceeded(OcishimError):  # noqa: N818
    """Something took longer than it was given."""


class Unavailable(OcishimError):  # noqa: N818
    """A registry or another peer cannot be reached now; trying again later may help."""


class OperationFailed(OcishimError):  # noqa: N818
    """A runtime, plugin or system call failed for a reason of its own, quoted in the message."""
