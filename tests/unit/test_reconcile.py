"""What is made of records found at start."""

from __future__ import annotations

import pytest

from ocishim.model import ContainerStatus, ProcessRef, SandboxStatus
from ocishim.translate.reconcile import (
    ContainerObserved,
    SandboxObserved,
    reconcile_container,
    reconcile_sandbox,
)

NOW = 9_000
PROCESS = ProcessRef(pid=7, start=70)
NOTHING = ContainerObserved(rebooted=False, has_exit_file=False, process_alive=False, launched=None)
ALIVE = ContainerObserved(rebooted=False, has_exit_file=False, process_alive=True, launched=None)
REBOOTED = ContainerObserved(rebooted=True, has_exit_file=False, process_alive=True, launched=None)
CREATED = ContainerStatus(created_at=1)
LAUNCHED = ContainerStatus(created_at=1, launched_at=2)
RUNNING = ContainerStatus(created_at=1, launched_at=2, started_at=3, process=PROCESS)
EXITED = ContainerStatus(created_at=1, launched_at=2, started_at=3, finished_at=4, exit_code=5, reason="Error")
READY = SandboxStatus(ready_at=1)
FINE = SandboxObserved(rebooted=False, namespaces_pinned=True, pause_alive=False)


def test_a_container_that_was_never_finished_is_undone() -> None:
    assert reconcile_container(ContainerStatus(), NOTHING, NOW)[1] == "undo"


@pytest.mark.parametrize("observed", [NOTHING, ALIVE, REBOOTED])
def test_an_end_once_recorded_stays_as_it_was(observed: ContainerObserved) -> None:
    assert reconcile_container(EXITED, observed, NOW) == (EXITED, "clear")


def test_a_running_container_is_watched_again() -> None:
    assert reconcile_container(RUNNING, ALIVE, NOW) == (RUNNING, "watch")


def test_an_exit_file_tells_the_end_even_where_the_pid_lives_on() -> None:
    observed = ContainerObserved(rebooted=False, has_exit_file=True, process_alive=True, launched=None)
    assert reconcile_container(RUNNING, observed, NOW) == (RUNNING, "finish")


@pytest.mark.parametrize("observed", [NOTHING, REBOOTED])
def test_an_end_that_nobody_saw_is_255_and_unknown(observed: ContainerObserved) -> None:
    status, action = reconcile_container(RUNNING, observed, NOW)
    assert action == "clear"
    assert (status.exit_code, status.reason, status.finished_at, status.process) == (255, "Unknown", NOW, None)


def test_an_unknown_end_is_never_before_the_start() -> None:
    status, _ = reconcile_container(RUNNING.model_copy(update={"started_at": NOW + 5}), NOTHING, NOW)
    assert status.finished_at == NOW + 5


def test_a_created_container_stays_created() -> None:
    assert reconcile_container(CREATED, NOTHING, NOW) == (CREATED, "keep")


def test_a_created_container_does_not_survive_a_reboot() -> None:
    status, action = reconcile_container(CREATED, REBOOTED, NOW)
    assert (status.reason, action) == ("Unknown", "clear")


def test_a_start_that_succeeded_without_the_server_is_adopted() -> None:
    observed = ContainerObserved(rebooted=False, has_exit_file=False, process_alive=False, launched=PROCESS)
    status, action = reconcile_container(LAUNCHED, observed, NOW)
    assert action == "watch"
    assert (status.started_at, status.process, status.is_running) == (2, PROCESS, True)


def test_a_container_that_ran_and_ended_without_the_server_has_its_own_end() -> None:
    observed = ContainerObserved(rebooted=False, has_exit_file=True, process_alive=False, launched=None)
    status, action = reconcile_container(LAUNCHED, observed, NOW)
    assert action == "finish"
    assert (status.started_at, status.process, status.is_running) == (2, None, True)


def test_a_start_that_died_with_the_server_has_failed() -> None:
    status, action = reconcile_container(LAUNCHED, NOTHING, NOW)
    assert action == "clear"
    assert (status.reason, status.exit_code, status.has_exited) == ("StartError", 128, True)


def test_a_pod_that_was_never_ready_is_undone() -> None:
    assert reconcile_sandbox(SandboxStatus(), FINE, NOW)[1] == "undo"


def test_a_pod_with_its_namespaces_is_kept() -> None:
    assert reconcile_sandbox(READY, FINE, NOW) == (READY, "keep")


@pytest.mark.parametrize(
    ("status", "observed"),
    [
        (READY, SandboxObserved(rebooted=True, namespaces_pinned=True, pause_alive=False)),
        (READY, SandboxObserved(rebooted=False, namespaces_pinned=False, pause_alive=False)),
        (READY.model_copy(update={"pause": PROCESS}), FINE),
    ],
)
def test_a_pod_that_lost_what_it_lives_in_is_not_ready(status: SandboxStatus, observed: SandboxObserved) -> None:
    found, action = reconcile_sandbox(status, observed, NOW)
    assert (found.stopped_at, found.is_ready, action) == (NOW, False, "clear")


def test_a_stopped_pod_stays_stopped_since_then() -> None:
    stopped = SandboxStatus(ready_at=1, stopped_at=2)
    assert reconcile_sandbox(stopped, FINE, NOW) == (stopped, "keep")
