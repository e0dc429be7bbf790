"""conmon is moved to its cgroup before it does anything: a stand-in waits for the start byte as conmon does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ocishim.errors import DeadlineExceeded, OperationFailed
from ocishim.linux import proc
from ocishim.runtime import conmon
from ocishim.runtime.oci import OciRuntime

CONMON = """#!/bin/bash
head -c 1 <&$_OCI_STARTPIPE >{directory}/byte
[ -s {directory}/byte ] || exit 1
if [ -e {directory}/placed ]; then echo '{{"pid": 11}}'; else echo '{{"pid": 22}}'; fi >&$_OCI_SYNCPIPE
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    file = tmp_path / "conmon"
    file.write_text(CONMON.format(directory=tmp_path))
    file.chmod(0o755)
    return str(file)


def launch(directory: Path) -> conmon.Launch:
    return conmon.Launch(
        container_id="c",
        name="c",
        bundle=str(directory),
        pidfile=f"{directory}/pidfile",
        log_path="",
        exit_dir=str(directory),
        socket_dir=str(directory),
        tty=False,
        stdin=False,
        stdin_once=False,
        systemd_cgroup=True,
    )


def runtime(within: float = 20.0) -> OciRuntime:
    return OciRuntime("crun", "/usr/bin/crun", "/run/none", within)


async def test_it_is_placed_before_its_start_byte(tmp_path: Path, program: str) -> None:
    placed: list[int] = []

    async def place(pid: int) -> None:
        await asyncio.sleep(0.05)
        placed.append(pid)
        (tmp_path / "placed").touch()

    assert await conmon.create(program, runtime(), launch(tmp_path), place) == 11
    assert placed[0] > 1


async def test_where_it_cannot_be_placed_it_does_nothing_and_ends(tmp_path: Path, program: str) -> None:
    pids: list[int] = []

    async def refuse(pid: int) -> None:
        pids.append(pid)
        raise OperationFailed("cgroup /x: no")

    with pytest.raises(OperationFailed, match="cgroup /x: no"):
        await conmon.create(program, runtime(), launch(tmp_path), refuse)
    await asyncio.sleep(0.1)
    assert proc.stat(pids[0]) is None
    assert not (tmp_path / "byte").exists() or not (tmp_path / "byte").read_bytes()


async def test_one_that_ends_before_it_is_placed_is_explained_by_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "conmon"
    program.write_text("#!/bin/sh\necho 'conmon: no such option' >&2\nexit 1\n")
    program.chmod(0o755)

    async def late(pid: int) -> None:
        found = proc.stat(pid)
        if found is not None:
            process = proc.ForeignProcess(pid, found.start)
            await process.gone.wait()
            process.close()

    async def refused(pid: int) -> None:
        await late(pid)
        await asyncio.sleep(0.05)
        raise OperationFailed("No such process")

    for place in (late, refused):
        with pytest.raises(OperationFailed, match="no such option"):
            await conmon.create(str(program), runtime(), launch(tmp_path), place)


async def test_placing_has_the_same_deadline_as_the_rest(tmp_path: Path, program: str) -> None:
    async def hang(pid: int) -> None:
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match="did not answer"):
        await conmon.create(program, runtime(within=0.2), launch(tmp_path), hang)
    await asyncio.sleep(0.1)


def test_the_runtime_is_told_of_systemd() -> None:
    line = conmon.argv("/usr/bin/conmon", runtime(), launch(Path("/b")))
    assert "--systemd-cgroup" in line
