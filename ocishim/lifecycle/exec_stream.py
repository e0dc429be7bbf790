"""Exec: a command in a running container whose streams a client has in its hands."""

from __future__ import annotations

import os
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from ocishim.lifecycle import exec_start
from ocishim.lifecycle.exec_start import Ends, Refusal, Terminal
from ocishim.linux import console, process
from ocishim.linux.stream import Reader, TerminalWriter, Writer
from ocishim.protocol.remote_command import Outcome, StreamType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.protocol.remote_command import Size, Wanted


class Output:
    """A pipe or a terminal that carries one of the streams."""

    def __init__(self, kind: StreamType, reader: Reader) -> None:
        self.kind = kind
        self.reader = reader

    async def read(self) -> tuple[StreamType, bytes] | None:
        """The next piece; None at the end."""
        data = await self.reader.read()
        return (self.kind, data) if data else None


class Said:
    """What the runtime said in place of a command's output."""

    def __init__(self, kind: StreamType, words: str) -> None:
        self._pieces = [(kind, f"{words}\n".encode())]

    async def read(self) -> tuple[StreamType, bytes] | None:
        """The words, once."""
        return self._pieces.pop() if self._pieces else None


class Running:
    """A streaming.backend.Session of a command that runs."""

    def __init__(
        self, child: process.Process, outputs: Sequence[Output], stdin: Writer | None, terminal: int | None
    ) -> None:
        self._child = child
        self._terminal = terminal
        self.outputs = outputs
        self.stdin = stdin

    async def resize(self, size: Size) -> None:
        """Tell its terminal, if it has one, its size."""
        if self._terminal is not None:
            console.resize(self._terminal, width=size.width, height=size.height)

    async def wait(self) -> Outcome:
        """Its exit code. Descendants that hold its output are not waited for."""
        returncode = await self._child.wait()
        for output in self.outputs:
            output.reader.finish()
        return Outcome(exec_start.exit_code(returncode))


class Refused:
    """A streaming.backend.Session of a command that cannot be executed."""

    stdin = None

    def __init__(self, refusal: Refusal, *, tty: bool) -> None:
        self._code = refusal.exit_code
        self.outputs = [Said(StreamType.STDOUT if tty else StreamType.STDERR, refusal.words)]

    async def resize(self, size: Size) -> None:
        """Nothing: it has no terminal."""

    async def wait(self) -> Outcome:
        """The shell's exit code."""
        return Outcome(self._code)


@asynccontextmanager
async def exec_stream(
    node: Node, container: Container, command: Sequence[str], wanted: Wanted
) -> AsyncIterator[Running | Refused]:
    """Start the command; where it still runs at the end it is killed with its session, its streams closed.

    Raises as exec_sync does; a command that cannot be executed is a Session too, with exit code 126 or 127.
    """
    exec_start.check(container, command)
    opened = _on_terminal if wanted.tty else _on_pipes
    async with opened(node, container, command, wanted) as session:
        yield session


@asynccontextmanager
async def _on_pipes(
    node: Node, container: Container, command: Sequence[str], wanted: Wanted
) -> AsyncIterator[Running | Refused]:
    with ExitStack() as ours, ExitStack() as theirs:
        stdin, theirs_in = _input(ours, theirs) if wanted.stdin else (None, None)
        out, theirs_out = _output(StreamType.STDOUT, ours, theirs) if wanted.stdout else (None, None)
        err, theirs_err = _output(StreamType.STDERR, ours, theirs) if wanted.stderr else (None, None)
        async with exec_start.started(node, container, command, Ends(theirs_in, theirs_out, theirs_err)) as child:
            theirs.close()
            if isinstance(child, Refusal):
                yield Refused(child, tty=False)
            else:
                yield Running(child, [output for output in (out, err) if output], stdin, None)


def _input(ours: ExitStack, theirs: ExitStack) -> tuple[Writer, int]:
    read, write = os.pipe()
    theirs.callback(os.close, read)
    writer = Writer(write)
    ours.callback(writer.close)
    return writer, read


def _output(kind: StreamType, ours: ExitStack, theirs: ExitStack) -> tuple[Output, int]:
    read, write = os.pipe()
    theirs.callback(os.close, write)
    reader = Reader(read)
    ours.callback(reader.close)
    return Output(kind, reader), write


@asynccontextmanager
async def _on_terminal(
    node: Node, container: Container, command: Sequence[str], wanted: Wanted
) -> AsyncIterator[Running | Refused]:
    directory = node.layout.container(container.metadata.id).state
    with ExitStack() as ours, console.console_socket(directory) as sent:
        where = Terminal(sent.path, sent.directory)
        async with exec_start.started(node, container, command, Ends(), where) as child:
            if isinstance(child, Refusal):
                yield Refused(child, tty=True)
                return
            terminal = await sent.terminal()
            ours.callback(os.close, terminal)
            console.end_lines_with_return(terminal)
            reader, writer = Reader(os.dup(terminal)), TerminalWriter(os.dup(terminal))
            ours.callback(reader.close)
            ours.callback(writer.close)
            yield Running(child, [Output(StreamType.STDOUT, reader)], writer if wanted.stdin else None, terminal)
