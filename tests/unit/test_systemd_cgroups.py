"""The systemd driver: what systemd is asked, by a stand-in for its manager and by a peer on a D-Bus of the test's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cgroup_trees import SCOPE, Kernel, v2
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from ocishim.errors import FailedPrecondition, InvalidArgument, OperationFailed, Unavailable
from ocishim.linux import cgroup, cgroup_driver, systemd_cgroups
from ocishim.linux.systemd_bus import SystemdManager
from ocishim.linux.systemd_cgroups import SystemdCgroups
from ocishim.spec.runtime import Cpu, Memory, Resources
from ocishim.translate.unit_properties import Property

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

SLICE = "/kubepods.slice/kubepods-pod1.slice"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "ocishim-c1.scope"


class FakeManager:
    """Remembers what it is asked, and may refuse."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, object]]] = []
        self.refusal: OperationFailed | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def _take(self, what: str, unit: str, properties: Iterable[Property] = ()) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append((what, unit, {each.name: each.value for each in properties}))
        self.meanwhile()

    async def start_transient_unit(self, unit: str, properties: Iterable[Property]) -> bool:
        self._take("start", unit, properties)
        return True

    async def stop_unit(self, unit: str) -> None:
        self._take("stop", unit)

    async def set_unit_properties(self, unit: str, properties: Iterable[Property]) -> None:
        self._take("set", unit, properties)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(cgroup, "write", made.write)
    return made


async def test_a_pods_cgroup_is_a_slice_that_counts_everything() -> None:
    manager = FakeManager()
    await SystemdCgroups(manager).make(SLICE)
    ((what, unit, properties),) = manager.asked
    assert (what, unit) == ("start", "kubepods-pod1.slice")
    assert {name for name, value in properties.items() if value is True} == {
        "MemoryAccounting",
        "CPUAccounting",
        "IOAccounting",
        "TasksAccounting",
    }


async def test_a_monitor_is_a_scope_in_the_pods_slice() -> None:
    manager = FakeManager()
    await SystemdCgroups(manager).adopt(f"{SLICE}/ocishim-monitor-c1.scope", 4321)
    ((what, unit, properties),) = manager.asked
    assert (what, unit) == ("start", "ocishim-monitor-c1.scope")
    assert properties["PIDs"] == [4321]
    assert properties["Slice"] == "kubepods-pod1.slice"


async def test_limits_are_in_the_files_and_in_the_unit(tmp_path: Path, kernel: Kernel) -> None:
    manager = FakeManager()
    wanted = Resources(memory=Memory(limit=50 << 20, swap=50 << 20), cpu=Cpu(quota=12345, period=100_000))
    await SystemdCgroups(manager, str(v2(tmp_path))).limit(SCOPE, wanted)
    assert (tmp_path / SCOPE[1:] / "memory.max").read_text() == f"{50 << 20}\n"
    assert manager.asked == [
        (
            "set",
            UNIT,
            {
                "MemoryMax": 50 << 20,
                "MemorySwapMax": 0,
                "CPUQuotaPeriodUSec": 100_000,
                "CPUQuotaPerSecUSec": 130_000,
            },
        )
    ]


async def test_what_systemd_rounds_is_set_right_again(tmp_path: Path, kernel: Kernel) -> None:
    manager = FakeManager()
    file = v2(tmp_path) / SCOPE[1:] / "cpu.max"
    manager.meanwhile = partial(file.write_text, "13000 100000\n")
    await SystemdCgroups(manager, str(tmp_path)).limit(SCOPE, Resources(cpu=Cpu(quota=12345, period=100_000)))
    assert file.read_text() == "12345 100000\n"


async def test_a_controller_that_systemd_has_not_lent_is_enabled(tmp_path: Path, kernel: Kernel) -> None:
    (v2(tmp_path) / "cgroup.subtree_control").write_text("memory\n")
    await SystemdCgroups(FakeManager(), str(tmp_path)).limit(SCOPE, Resources(cpu=Cpu(cpus="0")))
    assert (f"{tmp_path}/cgroup.subtree_control", "+cpuset") in kernel.written


async def test_what_the_kernel_refuses_systemd_is_not_asked(tmp_path: Path, kernel: Kernel) -> None:
    manager = FakeManager()
    kernel.refuse("cpuset.cpus", "99", 22)
    with pytest.raises(InvalidArgument):
        await SystemdCgroups(manager, str(v2(tmp_path))).limit(SCOPE, Resources(cpu=Cpu(cpus="99")))
    assert manager.asked == []


async def test_what_systemd_refuses_leaves_the_files_as_they_were(tmp_path: Path, kernel: Kernel) -> None:
    manager = FakeManager()
    manager.refusal = OperationFailed("systemd: no")
    file = v2(tmp_path) / SCOPE[1:] / "memory.max"
    before = file.read_text()
    with pytest.raises(OperationFailed, match="systemd: no"):
        await SystemdCgroups(manager, str(tmp_path)).limit(SCOPE, Resources(memory=Memory(limit=50 << 20)))
    assert file.read_text() == before


async def test_a_slice_in_which_others_run_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = FakeManager()
    monkeypatch.setattr(systemd_cgroups, "_LAST_WORDS", 0.0)
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / SLICE[1:]).mkdir(parents=True)
    (tmp_path / SLICE[1:] / "cgroup.procs").write_text("4321\n")
    assert not await SystemdCgroups(manager, str(tmp_path)).remove(SLICE)
    assert manager.asked == []


async def test_a_slice_is_stopped_and_its_cgroup_gone(tmp_path: Path) -> None:
    manager = FakeManager()
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / SLICE[1:]).mkdir(parents=True)
    assert await SystemdCgroups(manager, str(tmp_path)).remove(SLICE)
    assert manager.asked == [("stop", "kubepods-pod1.slice", {})]
    assert not (tmp_path / SLICE[1:]).exists()


def test_a_host_without_systemd_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup_driver, "_BOOTED", str(tmp_path / "no"))
    with pytest.raises(FailedPrecondition, match="not the init system"):
        cgroup_driver.CgroupDrivers().named("systemd")


def test_cgroupfs_loads_no_dbus() -> None:
    program = (
        "import sys\nfrom ocishim.linux.cgroup_driver import CgroupDrivers\nimport ocishim.daemon\n"
        "CgroupDrivers().named('cgroupfs')\nsys.exit(any(name.startswith('dbus_fast') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- over D-Bus ---

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A D-Bus daemon of the test's own."""
    program = shutil.which("dbus-daemon")
    if program is None:
        missing = "dbus-daemon is not installed (apt-get install dbus-daemon)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    (tmp_path / "bus.conf").write_text(BUS_CONFIG.format(path=tmp_path / "bus"))
    command = [program, f"--config-file={tmp_path}/bus.conf", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        try:
            yield f"unix:path={tmp_path}/bus"
        finally:
            daemon.terminate()


class FakeSystemd:
    """The peer: answers as systemd's manager does, and ends jobs as it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[object]]] = []
        self.error: tuple[str, str] | None = None
        self.result = "done"
        self.early = False
        """The job ends before the call that began it is answered."""
        self.silent = False
        self.bus: MessageBus | None = None

    async def serve(self, address: str) -> None:
        self.bus = await MessageBus(address, BusType.SYSTEM).connect()
        self.bus.add_message_handler(self._handle)
        await self.bus.request_name("org.freedesktop.systemd1")

    def _handle(self, message: Message) -> Message | bool | None:
        if (
            message.message_type is not MessageType.METHOD_CALL
            or message.interface != "org.freedesktop.systemd1.Manager"
        ):
            return None
        self.calls.append((message.member or "", list(message.body)))
        if self.silent:
            return True
        if self.error is not None and message.member != "Subscribe":
            return Message.new_error(message, *self.error)
        if message.member not in ("StartTransientUnit", "StopUnit"):
            return Message.new_method_return(message)
        number = len(self.calls)
        job = f"/org/freedesktop/systemd1/job/{number}"
        answer = Message.new_method_return(message, "o", [job])
        removed = Message.new_signal(
            "/org/freedesktop/systemd1",
            MANAGER,
            "JobRemoved",
            "uoss",
            [number, job, message.body[0], self.result],
        )
        assert self.bus is not None
        for each in (removed, answer) if self.early else (answer, removed):
            self.bus.send(each)
        return True


@pytest.fixture
async def systemd(address: str) -> AsyncIterator[FakeSystemd]:
    peer = FakeSystemd()
    await peer.serve(address)
    yield peer
    assert peer.bus is not None
    peer.bus.disconnect()
    await asyncio.sleep(0)


@pytest.fixture
async def manager(address: str, systemd: FakeSystemd) -> AsyncIterator[SystemdManager]:
    made = SystemdManager(address)
    yield made
    made.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("early", [False, True])
async def test_a_unit_is_there_when_its_job_has_ended(
    systemd: FakeSystemd, manager: SystemdManager, early: bool
) -> None:
    systemd.early = early
    assert await manager.start_transient_unit(
        "a.slice", [Property("Slice", "s", "b.slice"), Property("PIDs", "au", [7])]
    )
    name, body = systemd.calls[-1]
    assert name == "StartTransientUnit"
    assert body == ["a.slice", "replace", [("Slice", Variant("s", "b.slice")), ("PIDs", Variant("au", [7]))], []]


async def test_many_units_at_once_each_wait_for_their_own_job(systemd: FakeSystemd, manager: SystemdManager) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(manager.start_transient_unit(f"a-{number}.slice", []))
    assert len(systemd.calls) == 51, "one Subscribe, and a call for each"


async def test_a_job_that_fails_is_an_error_that_names_the_unit(systemd: FakeSystemd, manager: SystemdManager) -> None:
    systemd.result = "failed"
    with pytest.raises(OperationFailed, match=r"a\.slice.*failed"):
        await manager.start_transient_unit("a.slice", [])


async def test_a_unit_that_exists_is_no_error(systemd: FakeSystemd, manager: SystemdManager) -> None:
    systemd.error = ("org.freedesktop.systemd1.UnitExists", "Unit a.slice already exists.")
    assert not await manager.start_transient_unit("a.slice", [])


async def test_a_unit_that_is_gone_is_stopped(systemd: FakeSystemd, manager: SystemdManager) -> None:
    systemd.error = ("org.freedesktop.systemd1.NoSuchUnit", "Unit a.slice not loaded.")
    await manager.stop_unit("a.slice")


async def test_systemds_own_words_are_passed_on(systemd: FakeSystemd, manager: SystemdManager) -> None:
    systemd.error = ("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property AllowedCPUs")
    with pytest.raises(OperationFailed, match="Cannot set property AllowedCPUs"):
        await manager.set_unit_properties("a.slice", [Property("AllowedCPUs", "ay", b"\1")])
    for call in (manager.stop_unit("a.slice"), manager.start_transient_unit("a.slice", [])):
        with pytest.raises(OperationFailed, match="Cannot set property"):
            await call


async def test_a_connection_that_broke_is_made_again(systemd: FakeSystemd, manager: SystemdManager) -> None:
    await manager.stop_unit("a.slice")
    manager.close()
    await manager.stop_unit("a.slice")
    assert [name for name, _ in systemd.calls] == ["Subscribe", "StopUnit", "Subscribe", "StopUnit"]


async def test_without_a_bus_systemd_cannot_be_reached(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    manager = SystemdManager(f"unix:path={tmp_path}/nothing")
    for _ in range(20):
        with pytest.raises(Unavailable, match="D-Bus"):
            await manager.stop_unit("a.slice")
    assert len(os.listdir("/proc/self/fd")) < before + 10, "each attempt leaves a descriptor"


async def test_a_bus_without_systemd_says_so(address: str) -> None:
    manager = SystemdManager(address)
    try:
        with pytest.raises((Unavailable, OperationFailed), match="systemd"):
            await manager.stop_unit("a.slice")
    finally:
        manager.close()
        await asyncio.sleep(0)
