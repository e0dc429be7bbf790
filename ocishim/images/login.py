"""Which credentials go to which server: those of the request to the image's own registry, others by an auth file.

A request's credentials are a user's, and a mirror is somebody else: it gets them only where they name it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Final

from ocishim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from ocishim.images.auth import Credentials
from ocishim.linux import process
from ocishim.spec import auth_file

if TYPE_CHECKING:
    from ocishim.images.hosts import Endpoint
    from ocishim.spec.reference import Reference

_LARGEST_FILE: Final = 4 << 20
_HELPER_TIMEOUT: Final = 30.0
_NOT_FOUND: Final = "credentials not found"
"""What docker-credential programs answer for a server they know nothing of."""


class Logins:
    """Credentials for endpoints; `path` is an auth file in the form of docker's config.json, empty for none."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def for_endpoint(
        self, endpoint: Endpoint, wanted: Reference, given: Credentials | None
    ) -> Credentials | None:
        """What to log in with, if asked to. The auth file is read each time: a renewed password needs no restart.

        Raises FailedPrecondition where the auth file or the program that it names is no use.
        """
        server = endpoint.name if endpoint.is_mirror else wanted.domain
        if given is not None and (_is_for(given.server, server) or (not given.server and not endpoint.is_mirror)):
            return given
        if not self._path:
            return None
        try:
            found = (await asyncio.to_thread(self._read)).lookup(server, wanted.path)
            if isinstance(found, auth_file.Helper):
                found = await _ask(found, self._path)
        except InvalidArgument as error:
            raise FailedPrecondition(str(error)) from error
        if found is None or found == auth_file.Entry():
            return None
        return Credentials(
            username=found.username,
            password=found.password,
            identity_token=found.identity_token,
            registry_token=found.registry_token,
        )

    def _read(self) -> auth_file.AuthFile:
        try:
            with open(self._path, "rb") as file:
                return auth_file.parse(file.read(_LARGEST_FILE), self._path)
        except OSError as error:
            raise FailedPrecondition(f"{self._path} (images.auth_file): {error.strerror}") from error


def _is_for(named: str, server: str) -> bool:
    """Whether the server_address of a request's credentials means this server."""
    return bool(named) and auth_file.is_same_registry(named, server)


async def _ask(helper: auth_file.Helper, file: str) -> auth_file.Entry | None:
    program = f"docker-credential-{helper.name}"
    # Such programs find clouds and key rings by the server's own environment.
    environment = dict(os.environ)
    path = shutil.which(program, path=environment.get("PATH"))
    if path is None:
        raise FailedPrecondition(f"{file} names {program}, which is not in the server's PATH")
    try:
        done = await process.run(
            [path, "get"], what=program, within=_HELPER_TIMEOUT, stdin=f"{helper.server}\n".encode(), env=environment
        )
    except DeadlineExceeded as error:
        raise FailedPrecondition(f"{program} gave no answer for {helper.server}: {error}") from error
    if done.returncode != 0:
        if _NOT_FOUND in f"{done.stdout.decode(errors='replace')} {done.words()}":
            return None
        raise FailedPrecondition(f"{program} has no credentials for {helper.server}: {done.words()}")
    return auth_file.parse_helper(done.stdout, program)
