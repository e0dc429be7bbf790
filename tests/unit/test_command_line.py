"""How command lines are read: what is loaded for them, what is said of mistakes, what tables look like."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ocishim import cli
from ocishim.commands import output

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_000_000_000
HEAVY = ("grpclib", "betterproto", "aiohttp", "wsproto", "rich", "pydantic", "ocishim.api", "ocishim.daemon")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["frobnicate"], []])
def test_what_needs_no_server_loads_no_client(arguments: list[str]) -> None:
    script = (
        "import sys; from ocishim.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [*cli.COMMANDS, "images pull", "images list"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([*command.split(), "--help"])
    assert raised.value.code == 0
    assert f"usage: ocishim {command}" in capsys.readouterr().out


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["exec", "--help"])
    assert "125  exec, attach" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pod", "there is no command 'pod'; is 'pods' meant?"),
        ("xyzzy", "there is no command 'xyzzy' (see"),
        ("images lst", "there is no command 'lst'; is 'list' meant?"),
        ("ps --wide", "unrecognized arguments: --wide"),
        ("ps --output yaml", "invalid choice: 'yaml'"),
        ("logs", "CONTAINER"),
        ("logs --tail some c", "'some' is no number of lines"),
        ("logs --since yesterday c", "'yesterday' is neither an age"),
        ("logs --since 5x c", "'5x' is neither an age"),
        ("port-forward p 70000", "'70000' is no port"),
        ("port-forward p 80:0", "'80:0': a pod has no port 0"),
        ("port-forward p :", "'' is no port"),
        ("port-forward p", "[LOCAL:]REMOTE"),
        ("attach --detach-keys ctrl-1 c", "'ctrl-1' is neither"),
        ("stop --time -1 c", "'-1' is no whole number of seconds"),
        ("stop --time 1.5 c", "'1.5' is no whole number of seconds"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(line.split())
    said = capsys.readouterr()
    assert (raised.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("ocishim: ")
    assert words in said.err


@pytest.mark.parametrize(
    "line", ["ps", "pods", "inspect x", "logs x", "stop x", "rm x", "version", "port-forward x 80"]
)
def test_an_absent_server_is_one_line_and_exit_code_1(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line.split()[:1], "--runtime-endpoint", f"unix://{tmp_path}/no.sock", *line.split()[1:]]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"no server answers on unix://{tmp_path}/no.sock" in said


def test_exec_has_an_exit_code_of_its_own_for_its_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", "-r", f"{tmp_path}/no.sock", "c", "--", "true"]) == 125
    assert cli.main(["attach", "-r", f"{tmp_path}/no.sock", "c"]) == 125
    assert capsys.readouterr().err.count("no server answers") == 2


def test_the_environment_names_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONTAINER_RUNTIME_ENDPOINT", f"unix://{tmp_path}/env.sock")
    assert cli.main(["ps"]) == 1
    assert "env.sock" in capsys.readouterr().err


def test_an_address_that_is_no_socket_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ps", "-r", "tcp://127.0.0.1:1"]) == 2
    assert "neither unix:///PATH nor /PATH" in capsys.readouterr().err


def test_an_argument_that_is_no_text_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["exec", "c", "--", "\udcff"])
    assert raised.value.code == 2
    assert "b'\\xff' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_bug(closed: str) -> None:
    command = f"{sys.executable} -m ocishim exec -r /no.sock c true {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 125
    assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_one_line() -> None:
    command = f"{sys.executable} -m ocishim version --client >/dev/full"
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "ocishim: [Errno 28] No space left on device\n")


def test_exec_wants_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", "-r", "/no.sock", "c", "--"]) == 2
    assert "exec wants a command" in capsys.readouterr().err


def test_the_version_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--client", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["client"]["name"] == "ocishim"


@pytest.mark.parametrize(
    ("passed", "shown"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (200000, "2d"), (-5, "0s")],
)
def test_ages_are_short(passed: int, shown: str) -> None:
    assert output.age(1_000_000 * SECOND, (1_000_000 + passed) * SECOND) == shown


def test_moments_are_exact_or_empty() -> None:
    assert output.moment(0) == ""
    assert output.moment(1769860800123456789) == "2026-01-31T12:00:00.123456789Z"
    assert output.moment(1 << 62) == "2116-02-20T23:53:38.427387904Z"


def test_tables_take_names_as_they_are_but_for_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "SIZE"), [("[red]x[/red]", "1"), ("a\x1b[2Jb\n", "22")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME          SIZE",
        "[red]x[/red]     1",
        "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}         22",
    ]
