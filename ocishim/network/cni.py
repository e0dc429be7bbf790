"""CNI: which network a pod joins, and its plugins called in order (CNI spec, section 4).

`lo` needs no plugin: the namespace comes with it up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ocishim import tracing
from ocishim.errors import FailedPrecondition, OcishimError, OperationFailed
from ocishim.linux import inotify, process
from ocishim.network.attachment import Attachment, PodNetwork, arguments, capabilities
from ocishim.spec import cni as spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.config import CniSettings

log = logging.getLogger(__name__)

NOT_READY: Final = "NetworkPluginNotReady"
_SUFFIXES: Final = (".conflist", ".conf", ".json")
_LARGEST_CONFIG: Final = 1 << 20
_OUTPUT_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether pods can have a network, and if not, why."""

    ready: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    conflist: spec.Conflist | None
    complaint: str
    file: str = ""


class Observer(Protocol):
    """Told of every call of a plugin."""

    def __call__(self, plugin: str, verb: str, seconds: float, /, *, failed: bool) -> None:
        """A plugin has been called."""


def ignore(plugin: str, verb: str, seconds: float, /, *, failed: bool) -> None:
    """Nobody counts."""


class Cni:
    """The node's default network: the first usable configuration of the directory, in name order."""

    def __init__(self, settings: CniSettings, observe: Observer = ignore) -> None:
        self._settings = settings
        self._observe = observe
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._found = _Found(None, "")
        self._is_current = False
        """Whether the kernel would have told of a change since the last look."""

    @property
    def file(self) -> str:
        """The configuration in use, as of the last look; empty: none."""
        return self._found.file

    @property
    def conflist(self) -> spec.Conflist | None:
        """What it says."""
        return self._found.conflist

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Learn of changes from the kernel meanwhile, so that readiness costs no look at files."""
        directories = [self._settings.conf_dir, *self._settings.bin_dirs]
        async with AsyncExitStack() as stack:
            try:
                ticks = await stack.enter_async_context(inotify.changes(directories))
            except OSError as error:
                log.warning("changes of %s are looked for at each call: inotify: %s", directories[0], error)
            else:
                following = asyncio.create_task(self._follow(ticks), name="cni-watch")
                stack.push_async_callback(_end, following)
            yield

    async def _follow(self, ticks: AsyncIterator[None]) -> None:
        try:
            self._note_change(first=True)
            async for _ in ticks:
                self._note_change()
        except OSError as error:
            log.warning("changes of %s are looked for at each call: inotify: %s", self._settings.conf_dir, error)
        finally:
            self._is_current = False

    def _note_change(self, *, first: bool = False) -> None:
        before, self._seen = self._found, None  # a plugin may have gone, which no listing shows
        now = self._look()
        self._is_current = True
        if first or now != before:
            log.info("network: %s", f"{now.file} is used" if now.conflist else now.complaint)

    def readiness(self) -> Readiness:
        """Looked up anew when a file of the directory has changed: a config that comes later needs no restart."""
        found = self._found if self._is_current and self._found.conflist is not None else self._look()
        if found.conflist is None:
            return Readiness(ready=False, reason=NOT_READY, message=found.complaint)
        return Readiness(ready=True)

    def plan(self, pod: PodNetwork) -> Attachment:
        """What ADD is going to be given. Raises FailedPrecondition where there is no usable network."""
        found = self._look()
        if found.conflist is None:
            raise FailedPrecondition(f"pod {pod.namespace}/{pod.name} has no network to join: {found.complaint}")
        return Attachment(
            sandbox_id=pod.sandbox_id,
            netns=pod.netns,
            conflist=found.conflist,
            arguments=arguments(pod),
            capabilities=capabilities(pod),
        )

    async def add(self, attachment: Attachment) -> Attachment:
        """Call every plugin of the list with the result of the one before.

        Raises OperationFailed in the plugin's own words; a delete is then due.
        """
        previous: spec.JsonObject | None = None
        for plugin in attachment.conflist.plugins:
            with tracing.span("CNI ADD", plugin=plugin.type, network=attachment.conflist.name):
                output = await self._call("ADD", attachment, plugin, previous)
            try:
                result = spec.parse_result(output)
            except ValueError as error:
                raise OperationFailed(
                    f"CNI ADD of network {attachment.conflist.name}: plugin {plugin.type} answered nonsense "
                    f"({error}): {output[:200]!r}"
                ) from error
            previous = result.model_dump(mode="json")
        return attachment.model_copy(update={"result": spec.Result.model_validate(previous)})

    async def delete(self, attachment: Attachment) -> None:
        """Call every plugin in reverse order; repeatable, and right with the namespace gone.

        A plugin that fails does not keep the others from their turn. Raises OperationFailed at the end.
        """
        previous = attachment.result.model_dump(mode="json") if attachment.result else None
        failures: list[str] = []
        for plugin in reversed(attachment.conflist.plugins):
            try:
                with tracing.span("CNI DEL", plugin=plugin.type, network=attachment.conflist.name):
                    await self._call("DEL", attachment, plugin, previous)
            except OcishimError as error:
                failures.append(str(error))
        if failures:
            raise OperationFailed("; ".join(failures))

    async def _call(
        self, command: str, attachment: Attachment, plugin: spec.Plugin, previous: spec.JsonObject | None
    ) -> bytes:
        what = f"CNI {command} of network {attachment.conflist.name}"
        program = self._program(plugin.type)
        if program is None:
            raise FailedPrecondition(
                f"{what}: plugin {plugin.type!r} is in none of {', '.join(self._settings.bin_dirs)}"
            )
        netns = attachment.netns if os.access(attachment.netns, os.F_OK) else ""
        environment = process.CLEAN_ENVIRONMENT | {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.sandbox_id,
            "CNI_IFNAME": attachment.interface,
            "CNI_ARGS": attachment.arguments,
            "CNI_PATH": ":".join(self._settings.bin_dirs),
            "CNI_NETNS": netns,
        }
        began, failed = time.monotonic(), True
        try:
            finished = await process.run(
                [program],
                what=what,
                within=self._settings.timeout,
                stdin=_plugin_config(attachment, plugin, previous),
                env=environment,
                output_limit=_OUTPUT_LIMIT,
            )
            failed = finished.returncode != 0
        finally:
            self._observe(plugin.type, command, time.monotonic() - began, failed=failed)
        if finished.returncode != 0:
            said = spec.parse_problem(finished.stdout) or finished.words()
            raise OperationFailed(f"{what}: plugin {plugin.type}: {said}")
        return finished.stdout

    def _program(self, name: str) -> str | None:
        for directory in self._settings.bin_dirs:
            path = f"{directory}/{name}"
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
        return None

    def _look(self) -> _Found:
        """A listing and a stat a file, some 30 µs; files are read only when one has changed."""
        seen = tuple(self._listing())
        # A plugin may be installed after the config: while nothing is usable, look at all again.
        if seen != self._seen or self._found.conflist is None:
            self._found = self._choose([path for path, _, _ in seen])
            self._seen = seen
        return self._found

    def _listing(self) -> list[tuple[str, int, int]]:
        try:
            with os.scandir(self._settings.conf_dir) as entries:
                found = [
                    (entry.path, entry.stat().st_mtime_ns, entry.stat().st_size)
                    for entry in entries
                    if entry.name.endswith(_SUFFIXES) and entry.is_file()
                ]
        except OSError:
            return []
        return sorted(found)

    def _choose(self, paths: list[str]) -> _Found:
        complaints = [f"no CNI network configuration in {self._settings.conf_dir}"]
        for path in paths:
            try:
                with open(path, "rb") as file:
                    conflist = spec.parse_conflist(file.read(_LARGEST_CONFIG), is_list=path.endswith(".conflist"))
            except (OSError, ValueError) as error:
                complaints.append(f"{path}: {error}")
                continue
            missing = [plugin.type for plugin in conflist.plugins if self._program(plugin.type) is None]
            if missing:
                where = ", ".join(self._settings.bin_dirs)
                complaints.append(f"{path}: plugin {', '.join(missing)} is in none of {where}")
                continue
            return _Found(conflist, "", path)
        return _Found(None, "; ".join(complaints) if len(complaints) == 1 else "; ".join(complaints[1:]))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _plugin_config(attachment: Attachment, plugin: spec.Plugin, previous: spec.JsonObject | None) -> bytes:
    """The plugin's part of the list, with the list's name and version, what it declared a capability for,
    and the previous result (CNI spec, section 4, 'Deriving execution configuration')."""
    config = plugin.model_dump(mode="json")
    declared = config.pop("capabilities", {})
    config["cniVersion"] = attachment.conflist.cni_version
    config["name"] = attachment.conflist.name
    granted = {key: value for key, value in attachment.capabilities.items() if declared.get(key)}
    if granted:
        config["runtimeConfig"] = granted
    if previous is not None:
        config["prevResult"] = previous
    return json.dumps(config).encode()
