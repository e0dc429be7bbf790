"""The demo of `./dev run`: a server with its defaults, an image made on the spot, one pod, its log, an exec."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import busybox_image
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ocishim import config
from ocishim.api.runtime import v1
from ocishim.errors import OcishimError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

T = TypeVar("T")

BUNDLES = Path(__file__).resolve().parent
OCISHIM = BUNDLES.parent / ".venv" / "bin" / "ocishim"
CONFLIST = BUNDLES / "10-ocishim.conflist"
CNI_SUFFIXES = (".conf", ".conflist", ".json")
START_SECONDS = 20.0
STOP_SECONDS = 20.0
LINE_SECONDS = 10.0
ENDED_BY_ITSELF = "the server ended by itself, exit code {}; what it left running, the next `./dev run` removes"
EXEC = [
    "/bin/sh",
    "-c",
    'echo "$(id -un) on $(hostname), kernel $(uname -r), $(ls /proc | grep -c "^[0-9]") processes"',
]


class DemoError(Exception):
    """A step did not do what it should; the message is all that a reader needs."""


def say(text: str) -> None:
    """Print a line at once; once nobody reads it any more, print into the void, for there is a pod to remove."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        with Path(os.devnull).open("wb") as void:
            os.dup2(void.fileno(), sys.stdout.fileno())


class Step:
    """One line of the demo: what was done and how many milliseconds it took, printed when it has succeeded."""

    def __init__(self, what: str) -> None:
        self.what = what
        """Printed at the end: what is learnt on the way may be added."""

    def __enter__(self) -> Step:
        self._start = time.monotonic()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        milliseconds = (time.monotonic() - self._start) * 1000
        if failure is None:
            say(f"{milliseconds:8.1f} ms  {self.what}")


def main() -> int:
    """Run the demo; 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="./dev run", description="Start the server and run the demo pod.")
    parser.add_argument("--once", action="store_true", help="clean up and exit after the exec")
    once = parser.parse_args().once
    try:
        asyncio.run(interruptible(once=once))
    except (DemoError, OcishimError, OSError, GRPCError, StreamTerminatedError) as error:
        sys.stderr.write(f"demo failed: {explained(error)}\n")
        return 1
    return 0


def explained(error: BaseException) -> str:
    """An error's words, after those of the one that it came upon while things were undone."""
    words = f"{error.status.name}: {error.message}" if isinstance(error, GRPCError) else str(error)
    before = None if error.__suppress_context__ else error.__context__
    if before is None or isinstance(before, asyncio.CancelledError):
        return words or type(error).__name__
    first = explained(before)
    return first if words in first else f"{first}\nand then: {words or type(error).__name__}"


async def interruptible(*, once: bool) -> None:
    """Run the demo until it ends, or until SIGINT or SIGTERM; both undo everything first."""
    demo = asyncio.ensure_future(run(once=once))
    signals = asyncio.Event()

    def interrupt() -> None:
        if not signals.is_set():  # a second Ctrl-C must not stop the undoing, which has time limits of its own
            signals.set()
            demo.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        await demo
    except asyncio.CancelledError:
        if once:
            raise DemoError("interrupted; everything was removed") from None
        say("everything was removed")


async def run(*, once: bool) -> None:
    """All steps, undone in reverse order."""
    settings = config.load(None)
    socket_path = settings.listen.removeprefix("unix://")
    refuse_live(socket_path)
    with tempfile.TemporaryDirectory(prefix="ocishim-demo-") as scratch, network(settings, Path(scratch)) as options:
        async with server(socket_path, options, Path(scratch)) as process, connected(socket_path) as channel:
            runtime, images = v1.RuntimeServiceStub(channel), v1.ImageServiceStub(channel)
            await removed(runtime, " of an earlier demo, whose server was killed")
            async with image(images, settings.listen, Path(scratch)), pod(runtime, Path(scratch)):
                if not once:
                    say(f"serving on {settings.listen}, log in {scratch}/server.log; Ctrl-C removes everything")
                    raise DemoError(ENDED_BY_ITSELF.format(await process.wait()))


def refuse_live(path: str) -> None:
    """Raise DemoError if a server answers on the socket at `path`."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        probe.connect(path)
        raise DemoError(f"a server is live on {path} already; end it first, or use it: crictl -r unix://{path} pods")


@contextlib.contextmanager
def network(settings: config.Settings, scratch: Path) -> Iterator[list[str]]:
    """Options for a server that has a CNI configuration: this host's, else one for as long as the demo runs."""
    present = Path(settings.cni.conf_dir)
    if present.is_dir() and any(file.suffix in CNI_SUFFIXES for file in present.iterdir()):
        yield []
        return
    say(f"{present} holds no CNI configuration: using a copy of {CONFLIST.relative_to(BUNDLES.parent)} for this run")
    directory = scratch / "net.d"
    directory.mkdir()
    shutil.copy(CONFLIST, directory)
    file = scratch / "config.toml"
    drop_ins = scratch / "config.toml.d"
    if config.DEFAULT_FILE.exists():
        shutil.copy(config.DEFAULT_FILE, file)
    else:
        file.touch()
    if (given := Path(f"{config.DEFAULT_FILE}.d")).is_dir():
        shutil.copytree(given, drop_ins)
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "zz-demo.toml").write_text(f'[cni]\nconf_dir = "{directory}"\n', encoding="utf-8")
    bridge = json.loads(CONFLIST.read_text(encoding="utf-8"))["plugins"][0]["bridge"]
    was_there = Path("/sys/class/net", bridge).exists()
    try:
        yield ["--config", str(file)]
    finally:
        if not was_there and Path("/sys/class/net", bridge).exists():
            subprocess.run(["/usr/sbin/ip", "link", "delete", bridge], check=False)  # noqa: S603 - our own bridge


@contextlib.asynccontextmanager
async def server(socket_path: str, options: list[str], scratch: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server of this checkout that answers; ended by SIGTERM. Its last words are shown when anything fails."""
    log = scratch / "server.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            OCISHIM,
            "serve",
            *options,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C at the terminal is ours: the server must live until the pod is gone
        )
    allowed = {0, -signal.SIGTERM}  # the signal may come before the server minds it
    try:
        with Step("ocishim serve") as step:
            step.what += f": {await answered(process, socket_path)}"
        allowed = {0}
        yield process
    except BaseException as error:
        if not isinstance(error, asyncio.CancelledError):
            sys.stderr.write("the server's last words:\n" + "".join(last_lines(log)))
        raise
    else:
        if process.returncode is not None:
            raise DemoError(ENDED_BY_ITSELF.format(process.returncode))
    finally:
        if process.returncode is None:
            await ended(process, allowed)


async def answered(process: asyncio.subprocess.Process, socket_path: str) -> str:
    """Wait until the server answers Version, and return what it says it is."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.returncode is not None:
            raise DemoError(f"`ocishim serve` ended with exit code {process.returncode} before it answered")
        async with connected(socket_path) as channel:
            with contextlib.suppress(OSError, StreamTerminatedError):
                version = await v1.RuntimeServiceStub(channel).version(v1.VersionRequest(version="v1"), timeout=5)
                return f"{version.runtime_name} {version.runtime_version} speaks CRI {version.runtime_api_version}"
        await asyncio.sleep(0.02)
    raise DemoError(f"`ocishim serve` did not answer on {socket_path} within {START_SECONDS:.0f} s")


async def ended(process: asyncio.subprocess.Process, allowed: set[int]) -> None:
    """End the server as an operator would. DemoError unless its exit code is an allowed one."""
    with Step("SIGTERM ends the server") as step:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise DemoError(f"the server did not end within {STOP_SECONDS:.0f} s of SIGTERM and was killed") from None
        step.what += f", exit code {process.returncode}"
    if process.returncode not in allowed:
        raise DemoError(f"the server ended with exit code {process.returncode} instead of 0")


def last_lines(file: Path) -> list[str]:
    """The last 20 lines of a log, of which no byte is too odd to be shown."""
    return file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-20:]


@contextlib.asynccontextmanager
async def connected(socket_path: str) -> AsyncIterator[Channel]:
    """A gRPC channel to the server, closed at the end."""
    channel = Channel(path=socket_path)
    try:
        yield channel
    finally:
        channel.close()


@contextlib.asynccontextmanager
async def image(images: v1.ImageServiceStub, address: str, scratch: Path) -> AsyncIterator[None]:
    """The demo's image, loaded by the command that a user has; removed at the end."""
    name = container_config().image.image
    layout = scratch / "layout"
    with Step(f"image made of {busybox_image.BUSYBOX}: {name}"):
        layout.mkdir()
        await asyncio.to_thread(busybox_image.write_layout, layout, name)
    try:
        with Step(f"ocishim images load {layout}"):
            await uninterrupted(load(layout, address))
        yield
    finally:
        with Step("RemoveImage"):
            await images.remove_image(v1.RemoveImageRequest(image=v1.ImageSpec(image=name)), timeout=30)


async def load(layout: Path, address: str) -> None:
    """Load an image layout with the command that a user has."""
    command = ("images", "load", str(layout), "--listen", address)
    process = await asyncio.create_subprocess_exec(OCISHIM, *command, stdout=subprocess.DEVNULL, start_new_session=True)
    if await process.wait() != 0:
        raise DemoError(f"`ocishim images load` ended with exit code {process.returncode}; see its words above")


async def uninterrupted(call: Coroutine[None, None, T]) -> T:
    """Await a call to its end, also when interrupted: the server carries on what it has begun."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def container_config() -> v1.ContainerConfig:
    """The container of bundles/."""
    return v1.ContainerConfig().from_json((BUNDLES / "demo-container.json").read_text(encoding="utf-8"))


def pod_config() -> v1.PodSandboxConfig:
    """The pod of bundles/."""
    return v1.PodSandboxConfig().from_json((BUNDLES / "demo-pod.json").read_text(encoding="utf-8"))


async def removed(runtime: v1.RuntimeServiceStub, whose: str) -> None:
    """Stop and remove every pod that the demo made."""
    uid = pod_config().metadata.uid
    for found in (await runtime.list_pod_sandbox(v1.ListPodSandboxRequest(), timeout=10)).items:
        if found.metadata.uid == uid:
            with Step(f"StopPodSandbox {found.id[:13]}{whose}"):
                await runtime.stop_pod_sandbox(v1.StopPodSandboxRequest(pod_sandbox_id=found.id), timeout=60)
            with Step(f"RemovePodSandbox {found.id[:13]}{whose}"):
                await runtime.remove_pod_sandbox(v1.RemovePodSandboxRequest(pod_sandbox_id=found.id), timeout=60)


@contextlib.asynccontextmanager
async def pod(runtime: v1.RuntimeServiceStub, scratch: Path) -> AsyncIterator[None]:
    """The pod of bundles/ with its container, log shown as it comes, one exec; stopped and removed at the end."""
    config_of_pod = pod_config()
    config_of_pod.log_directory = str(scratch / "logs")
    request = v1.RunPodSandboxRequest(config=config_of_pod)
    try:
        with Step("RunPodSandbox") as step:
            pod_id = (await uninterrupted(runtime.run_pod_sandbox(request, timeout=60))).pod_sandbox_id
            step.what += f" {pod_id[:13]}"
        container_id = await started(runtime, pod_id, config_of_pod)
        log = scratch / "logs" / container_config().log_path
        seen = asyncio.Event()
        following = asyncio.create_task(follow(log, seen))
        try:
            await first_line(seen, following, log)
            await executed(runtime, container_id)
            yield
        finally:
            await stopped(runtime, container_id)
            following.cancel()
            await asyncio.wait([following])
    finally:
        await removed(runtime, "")


async def started(runtime: v1.RuntimeServiceStub, pod_id: str, config_of_pod: v1.PodSandboxConfig) -> str:
    """Create and start the container; its id."""
    request = v1.CreateContainerRequest(pod_sandbox_id=pod_id, config=container_config(), sandbox_config=config_of_pod)
    with Step("CreateContainer") as step:
        container_id = (await uninterrupted(runtime.create_container(request, timeout=60))).container_id
        step.what += f" {container_id[:13]}"
    with Step("StartContainer"):
        await runtime.start_container(v1.StartContainerRequest(container_id=container_id), timeout=60)
    return container_id


async def stopped(runtime: v1.RuntimeServiceStub, container_id: str) -> None:
    """Stop the container with grace."""
    with Step("StopContainer"):
        await runtime.stop_container(v1.StopContainerRequest(container_id=container_id, timeout=5), timeout=30)


async def first_line(seen: asyncio.Event, following: asyncio.Task[None], log: Path) -> None:
    """Wait until the container's first line is in the log."""
    waiting = asyncio.create_task(seen.wait())
    await asyncio.wait([waiting, following], timeout=LINE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not seen.is_set():
        raise DemoError(f"the container wrote nothing to {log} within {LINE_SECONDS:.0f} s")


async def follow(log: Path, seen: asyncio.Event) -> None:
    """Print the lines of a CRI log as they come, and what is left when cancelled."""
    offset = 0
    try:
        while True:
            offset = print_from(log, offset, seen)
            await asyncio.sleep(0.02)
    finally:
        print_from(log, offset, seen)


def print_from(log: Path, offset: int, seen: asyncio.Event) -> int:
    """Print the whole lines after `offset` (`TIME STREAM P|F TEXT` each); where the next begins."""
    if not log.exists():
        return offset
    with log.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            _, stream, _, text = line.decode(errors="replace").rstrip("\n").split(" ", 3)
            say(f"{stream:>11}  {text}")
            seen.set()
    return offset


async def executed(runtime: v1.RuntimeServiceStub, container_id: str) -> None:
    """Run a command in the container and show what it says."""
    with Step("ExecSync"):
        request = v1.ExecSyncRequest(container_id=container_id, cmd=EXEC, timeout=10)
        answer = await runtime.exec_sync(request, timeout=30)
    for line in (answer.stdout + answer.stderr).decode(errors="replace").splitlines():
        say(f"{'exec':>11}  {line}")
    if answer.exit_code != 0:
        raise DemoError(f"the exec ended with exit code {answer.exit_code}")


if __name__ == "__main__":
    sys.exit(main())
