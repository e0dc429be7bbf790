"""The configuration, the command line, subprocesses, and the codes that errors become."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING

import pytest
from grpclib.const import Status

from ocishim import cli, config, errors
from ocishim.api.runtime import v1
from ocishim.cri.errors import status_of
from ocishim.cri.wire import Encoded, WireCodec
from ocishim.linux import process

if TYPE_CHECKING:
    from pathlib import Path


def test_drop_ins_win_key_by_key_in_name_order(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text('root = "/r"\n[cni]\nconf_dir = "/a"\ntimeout = 5.0\n')
    drop_ins = tmp_path / "config.toml.d"
    drop_ins.mkdir()
    (drop_ins / "20.toml").write_text('[cni]\nconf_dir = "/c"\n')
    (drop_ins / "10.toml").write_text('[cni]\nconf_dir = "/b"\n[runtimes.kata]\npath = "/usr/bin/kata"\n')
    found = config.load(main, {"state": "/s"})
    assert (found.root, found.state, found.cni.conf_dir, found.cni.timeout) == ("/r", "/s", "/c", 5.0)
    assert found.runtimes["kata"].path == "/usr/bin/kata"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rot = 1", "rot: unknown key"),
        ("[cni]\nconf_dirs = 1", "cni.conf_dirs: unknown key"),
        ("[cni]\ntimeout = 'soon'", "cni.timeout: Input should be a valid number"),
        ("listen = '/run/x.sock'", "listen: String should match"),
        ("[runtimes.UP]\npath = '/x'", "runtimes.UP"),
        ("[images]\nparallel_layers = 0", "images.parallel_layers"),
        ("[stats]\ninterval = 0.0", "stats.interval"),
        ("[metrics]\naddress = '9090'", "metrics.address"),
        ("[metrics]\naddress = ':9090'", "metrics.address"),
        ("[metrics]\naddress = 'a b:9090'", "metrics.address"),
        ("root = ", "not TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path: Path, content: str, words: str) -> None:
    main = tmp_path / "config.toml"
    main.write_text(content)
    with pytest.raises(errors.InvalidArgument) as raised:
        config.load(main)
    assert str(raised.value).startswith(str(main))
    assert words in str(raised.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="cannot be read"):
        config.load(tmp_path / "none.toml")


def test_a_broken_configuration_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = tmp_path / "config.toml"
    main.write_text("rot = 1")
    assert cli.main(["serve", "--config", str(main)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"ocishim: {main}: rot: unknown key\n"


def test_an_absent_server_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["images", "load", str(tmp_path), "--listen", f"unix://{tmp_path}/none.sock"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "ocishim serve" in said.err


def test_an_unknown_command_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["frobnicate"])
    assert raised.value.code == 2
    assert "frobnicate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), Status.INVALID_ARGUMENT),
        (errors.NotFound("x"), Status.NOT_FOUND),
        (errors.AlreadyExists("x"), Status.ALREADY_EXISTS),
        (errors.FailedPrecondition("x"), Status.FAILED_PRECONDITION),
        (errors.DeadlineExceeded("x"), Status.DEADLINE_EXCEEDED),
        (errors.OperationFailed("x"), Status.INTERNAL),
        (OSError(errno.ENOSPC, "full", "/f"), Status.RESOURCE_EXHAUSTED),
        (PermissionError(errno.EPERM, "no", "/f"), Status.PERMISSION_DENIED),
        (OSError(errno.EIO, "bad", "/f"), Status.INTERNAL),
        (KeyError("bug"), Status.INTERNAL),
    ],
)
def test_errors_have_codes(error: Exception, code: Status) -> None:
    assert status_of(error)[0] is code


def test_a_full_disk_is_one_whoever_met_it() -> None:
    error = errors.OperationFailed("it failed")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert status_of(error) == (Status.RESOURCE_EXHAUSTED, "it failed")
    assert status_of(OSError(errno.ENOSPC, "full", "/f"))[1] == "/f: full"
    assert "a bug" in status_of(KeyError("x"))[1]


def test_the_codec_sends_bytes_as_they_are_and_refuses_garbage() -> None:
    codec = WireCodec()
    message = v1.VersionRequest(version="1")
    assert codec.encode(message, v1.VersionRequest) == bytes(message)
    assert codec.encode(Encoded(b"xy"), v1.VersionRequest) == b"xy"
    assert codec.decode(bytes(message), v1.VersionRequest) == message
    with pytest.raises(errors.InvalidArgument, match="VersionRequest"):
        codec.decode(b"\xff\xff\xff", v1.VersionRequest)
    with pytest.raises(TypeError):
        codec.encode("text", v1.VersionRequest)


async def test_a_program_gets_its_input_and_a_clean_environment() -> None:
    found = await process.run(["/bin/sh", "-c", "cat; env"], what="x", within=10, stdin=b"input\n" * 20000)
    assert found.stdout.startswith(b"input\n" * 20000)
    names = {line.split(b"=")[0] for line in found.stdout.splitlines() if b"=" in line}
    assert names <= {b"PATH", b"LANG", b"PWD", b"_", b"SHLVL", b"OLDPWD"}


async def test_output_beyond_the_budget_is_drained_and_dropped() -> None:
    script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3"
    found = await process.run(["/bin/sh", "-c", script], what="x", within=10, output_limit=1000)
    assert (found.returncode, len(found.stdout) + len(found.stderr)) == (3, 1000)


async def test_a_program_past_its_time_is_killed_with_its_group() -> None:
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="the step"):
        await process.run(["/bin/sh", "-c", "sleep 1000 & sleep 1000"], what="the step", within=0.2)
    assert time.monotonic() - began < 30


async def test_a_child_that_holds_the_pipe_is_not_waited_for() -> None:
    began = time.monotonic()
    found = await process.run(["/bin/sh", "-c", "sleep 20 & echo done"], what="x", within=60)
    assert found.stdout == b"done\n"
    assert time.monotonic() - began < 15


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(errors.FailedPrecondition, match="/no/such/program"):
        await process.run(["/no/such/program"], what="x", within=1)


async def test_a_cancelled_caller_leaves_no_process() -> None:
    task = asyncio.create_task(process.run(["/bin/sleep", "1000"], what="x", within=2000))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
