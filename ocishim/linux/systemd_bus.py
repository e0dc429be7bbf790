"""systemd's manager over D-Bus, as much of it as cgroups need (org.freedesktop.systemd1(5)).

Imported only where a systemd driver is configured: dbus-fast is not loaded on other hosts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dbus_fast import AuthError, BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from ocishim.errors import DeadlineExceeded, OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ocishim.translate.unit_properties import Property

_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_NO_UNIT: Final = "org.freedesktop.systemd1.NoSuchUnit"
_EXISTS: Final = "org.freedesktop.systemd1.UnitExists"
_WITHIN: Final = 30.0
"""Seconds a call, and then its job, may take."""


class SystemdManager:
    """One connection, made when it is first needed and again when it has broken."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._results: dict[str, str] = {}
        self._starting = 0

    async def start_transient_unit(self, unit: str, properties: Iterable[Property]) -> bool:
        """Make a unit and wait until it is active; False where there is one of that name.

        Raises OperationFailed in systemd's words.
        """
        listed = [[each.name, Variant(each.signature, each.value)] for each in properties]
        try:
            await self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "replace", listed, []], unit)
        except DBusError as error:
            if error.type == _EXISTS:
                return False
            raise _failed("StartTransientUnit", unit, error) from error
        return True

    async def stop_unit(self, unit: str) -> None:
        """Stop a unit and wait for it; content where there is none. Raises OperationFailed in systemd's words."""
        try:
            await self._job("StopUnit", "ss", [unit, "replace"], unit)
        except DBusError as error:
            if error.type != _NO_UNIT:
                raise _failed("StopUnit", unit, error) from error

    async def set_unit_properties(self, unit: str, properties: Iterable[Property]) -> None:
        """Change a unit until the next boot. Raises OperationFailed in systemd's words."""
        listed = [[each.name, Variant(each.signature, each.value)] for each in properties]
        try:
            await self._call(await self._connected(), "SetUnitProperties", "sba(sv)", [unit, True, listed])
        except DBusError as error:
            raise _failed("SetUnitProperties", unit, error) from error

    async def _job(self, method: str, signature: str, body: Sequence[Any], unit: str) -> None:
        """Call what starts a job, and wait for the job. Its end may be told before the call is answered."""
        bus = await self._connected()
        self._starting += 1
        try:
            job = str((await self._call(bus, method, signature, body))[0])
            result = self._results.pop(job, "")
            waiting = self._jobs.setdefault(job, asyncio.get_running_loop().create_future())
        finally:
            self._starting -= 1
            if not self._starting:
                self._results.clear()
        try:
            async with asyncio.timeout(_WITHIN):
                result = result or await waiting
        except TimeoutError as error:
            raise DeadlineExceeded(f"systemd: {method} of {unit} did not end within {_WITHIN:g} s") from error
        finally:
            self._jobs.pop(job, None)
        if result != "done":
            raise OperationFailed(
                f"systemd: {method} of {unit}: the job ended as {result!r}; see `systemctl status {unit}`"
            )

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                self._bus = await self._connect()
            return self._bus

    async def _connect(self) -> MessageBus:
        try:
            async with asyncio.timeout(_WITHIN):
                bus = await MessageBus(self._address, BusType.SYSTEM).connect()
                try:
                    await self._subscribe(bus)
                except BaseException:
                    bus.disconnect()
                    raise
        except (OSError, DBusError, AuthError, TimeoutError, EOFError) as error:
            raise Unavailable(f"systemd cannot be reached over D-Bus: {error or type(error).__name__}") from error
        return bus

    async def _subscribe(self, bus: MessageBus) -> None:
        bus.add_message_handler(self._heard)
        rule = f"type='signal',sender='{_NAME}',path='{_PATH}',interface='{_MANAGER}',member='JobRemoved'"
        match = Message(*_BUS, member="AddMatch", signature="s", body=[rule])
        await _answer(bus, match)
        await self._call(bus, "Subscribe", "", [])

    def _heard(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or message.member != "JobRemoved":
            return
        _, job, _, result = message.body
        waiting = self._jobs.get(job)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(result)
        elif self._starting:
            self._results[job] = result

    async def _call(self, bus: MessageBus, method: str, signature: str, body: Sequence[Any]) -> list[Any]:
        try:
            async with asyncio.timeout(_WITHIN):
                message = Message(
                    destination=_NAME,
                    path=_PATH,
                    interface=_MANAGER,
                    member=method,
                    signature=signature,
                    body=list(body),
                )
                return await _answer(bus, message)
        except TimeoutError as error:
            raise DeadlineExceeded(f"systemd: {method} was not answered within {_WITHIN:g} s") from error
        except (OSError, EOFError) as error:
            raise Unavailable(f"systemd: {method}: the connection to D-Bus broke: {error}") from error

    def close(self) -> None:
        """End the connection."""
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None


async def _answer(bus: MessageBus, message: Message) -> list[Any]:
    answer = await bus.call(message)
    if answer is None:
        raise EOFError("no answer")
    if answer.message_type is MessageType.ERROR:
        raise DBusError(answer.error_name or "", str(answer.body[0]) if answer.body else "")
    return list(answer.body)


def _failed(method: str, unit: str, error: DBusError) -> OperationFailed:
    return OperationFailed(f"systemd: {method} of {unit}: {error.text or error.type}")
