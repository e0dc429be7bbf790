"""Starts the guest, shows what the tests write, and ends it: at their end, at its time limit, or when interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vm import plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm.image import Guest
    from vm.teller import Teller

OFF_WITHIN = 20.0
"""Seconds from the tests' end until the guest is off; after that it is ended."""
TIMED_OUT = 124
"""The exit code when the time limit has passed, as timeout(1)'s."""
LEFT_OUT = ("__pycache__", "node_modules", "build", "dist")


def run(guest: Guest, wanted: plan.Options, *, checkout: Path, cache: Path, teller: Teller) -> int:
    """Run the tests of `checkout` in the guest and return their exit code.

    OSError when QEMU cannot be started. The console's log is kept in `cache` when something failed.
    """
    accelerator = plan.accelerator(Path("/proc/cpuinfo").read_text(encoding="utf-8"), kvm_opens=_kvm_opens())
    patience = 1 if accelerator == "kvm" else plan.PATIENCE
    token = secrets.token_hex(8)
    job = {
        "token": token,
        "arguments": plan.pytest_arguments(wanted.pytest, patience),
        "environment": plan.environment(wanted, patience),
    }
    with scratch_directory(cache) as scratch:
        disk, console = scratch / "job", scratch / "console"
        pack(checkout, json.dumps(job).encode(), disk)
        machine = plan.Machine(
            kernel=str(guest.kernel),
            initrd=str(guest.initrd),
            image=str(guest.image),
            job=str(disk),
            console=str(console),
            accelerator=accelerator,
        )
        how = "with KVM" if accelerator == "kvm" else "emulated, for want of KVM, which is some ten times slower"
        teller.say(f"starting the guest {how}: {wanted.cpus} processors, {wanted.memory} MiB, cgroup {wanted.cgroup}")
        code = _watch(plan.qemu_command(machine, wanted), token, wanted.time_limit, scratch, teller)
        if code != 0 and console.exists():
            console.replace(cache / "console.log")
            teller.say(f"the guest's console and the end of its journal are in {cache / 'console.log'}")
    return code


@contextlib.contextmanager
def scratch_directory(cache: Path) -> Iterator[Path]:
    """A directory for this run, locked while we live; those of runs that were killed go first."""
    with contextlib.ExitStack() as owned:
        with open(cache / "lock", "a") as all_runs:
            fcntl.flock(all_runs, fcntl.LOCK_EX)  # nobody takes a new directory for one that was left
            for left in cache.glob("run-*"):
                with (left / "lock").open("a") as lock, contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
            scratch = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=cache)))
            fcntl.flock(owned.enter_context((scratch / "lock").open("a")), fcntl.LOCK_EX)
        yield scratch


def _watch(command: list[str], token: str, limit: float, scratch: Path, teller: Teller) -> int:
    """Run QEMU, pass its output on, and return what the guest's exit event says; an error code without one."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],  # it ends with us, however we end
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(scratch)},  # for what the guest changes of its root disk
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, end)
    timer.start()
    with process:
        try:
            code = follow(process.stdout, token, teller)
            if code is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(OFF_WITHIN)
                return code
            process.wait()
        finally:
            timer.cancel()
            process.kill()
    if late.is_set():
        teller.say(f"ended the guest: the tests took longer than {limit:.0f} s (--time-limit)")
        return TIMED_OUT
    teller.say(f"the guest went off before the tests had ended (QEMU's exit code: {process.returncode})")
    return 1


def follow(output: IO[bytes] | None, token: str, teller: Teller) -> int | None:
    """Show the tests' output as it comes, until the exit event's code; None when it ends without."""
    if output is None:
        return None
    for line in io.TextIOWrapper(output, encoding="utf-8", errors="replace", newline="\n"):
        event = plan.event(line, token)
        if event is None:
            teller.show(line)
        elif event.name == "exit":
            return plan.exit_code(event.detail)
        else:
            teller.say(f"the guest has {event.name}: {event.detail}")
    return None


def pack(checkout: Path, job: bytes, disk: Path) -> None:
    """Write the disk that the guest unpacks: the checkout as it is here and now, without hidden and made files."""

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = os.path.basename(member.name)
        left_out = name.startswith(".") or name.endswith(".egg-info") or name in LEFT_OUT
        return None if left_out else member

    with tarfile.open(disk, "w") as tar:
        tar.add(checkout, "ocishim", filter=chosen)
        member = tarfile.TarInfo("job.json")
        member.size = len(job)
        tar.addfile(member, io.BytesIO(job))


def _kvm_opens() -> bool:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
