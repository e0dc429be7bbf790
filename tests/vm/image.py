"""Makes the guest's root file system once for each set of packages, and keeps it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vm import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vm.teller import Teller

SIZE = "6G"
"""Of the image, which is sparse."""
UNIT = """\
[Unit]
Description=The tests of one checkout
After=multi-user.target dbus.service
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
Type=oneshot
Delegate=yes
Environment=HOME=/root LANG=C.UTF-8
ExecStartPre=/bin/tar --extract --no-same-owner --file /dev/vdb --directory /srv
ExecStart=/usr/bin/python3 -I /srv/ocishim/tests/vm/guest.py /srv/job.json
StandardOutput=journal+console
StandardError=journal+console
"""
FILES = {
    "etc/systemd/system/ocishim-tests.service": UNIT,
    "etc/hostname": "ocishim-vm\n",
    "etc/hosts": "127.0.0.1 localhost ocishim-vm\n::1 localhost\n",
    "etc/resolv.conf": "search example.org\nnameserver 192.0.2.53\n",
    "etc/fstab": "",
}


class BuildError(Exception):
    """The guest could not be made; says what was tried and where the output is."""


@dataclass(frozen=True)
class Guest:
    """The files that a machine starts from."""

    kernel: Path
    initrd: Path
    image: Path


class Cache:
    """A directory of what takes long to make; one process at a time changes it."""

    def __init__(self, directory: Path, teller: Teller) -> None:
        self._directory = directory
        self._teller = teller
        self._log = directory / "build.log"

    def guest(self, packages: Sequence[str], requirements: Sequence[str]) -> Guest:
        """The guest with these Debian and Python packages, made now unless it is there."""
        self._directory.mkdir(exist_ok=True)
        with self._locked():
            root_name = f"root-{plan.fingerprint(plan.RECIPE, plan.SUITE, packages)}"
            name = plan.fingerprint(root_name, requirements, FILES)
            found = Guest(*(self._directory / f"{kind}-{name}" for kind in ("kernel", "initrd", "image")))
            if not found.image.exists():
                self._log.write_bytes(b"")
                self._remove_others(root_name)
                root = self._root(root_name, packages)
                self._python(root, requirements)
                self._image(root, found)
            return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._teller.say("waiting for another ./dev test-vm to make the guest")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _remove_others(self, root_name: str) -> None:
        """Take away what other packages or a build cut short have left; a machine that runs keeps its open files."""
        for path in self._directory.iterdir():
            if path.name.startswith(("image-", "kernel-", "initrd-")):
                path.unlink()
            elif path.name.startswith("root-") and path.name != root_name:
                shutil.rmtree(path)

    def _root(self, name: str, packages: Sequence[str]) -> Path:
        root = self._directory / name
        if root.exists():
            return root
        mirror = plan.mirror(
            subprocess.run(
                ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(ORIGIN)", "Identifier: Packages"],
                check=False,
                capture_output=True,
                text=True,
            ).stdout
        )
        self._teller.say(
            f"making the guest's root file system from {mirror} (a minute or two, 1 GB in {self._directory})"
        )
        unfinished = self._directory / f"{name}.unfinished"
        include = ",".join(packages)
        # In namespaces of its own, so that no mount and no process of the chroot outlives an interruption.
        self._run(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("debootstrap", "--variant=minbase", f"--include={include}", plan.SUITE, str(unfinished), mirror),
        )
        shutil.rmtree(unfinished / "var/cache/apt")
        shutil.rmtree(unfinished / "var/lib/apt/lists")
        unfinished.rename(root)
        return root

    def _python(self, root: Path, requirements: Sequence[str]) -> None:
        """Put what the tests import into /opt, compiled, and both it and the checkout on Python's path."""
        self._teller.say("fetching the Python packages for the guest")
        target = root / "opt/site"
        if target.exists():
            shutil.rmtree(target)
        self._run(sys.executable, "-m", "pip", *plan.pip_arguments(str(target), requirements))
        self._run("chroot", str(root), "python3", "-m", "compileall", "-q", "/opt/site")
        (root / "usr/lib/python3/dist-packages/ocishim.pth").write_text("/opt/site\n/srv/ocishim\n")

    def _image(self, root: Path, made: Guest) -> None:
        self._teller.say("making the disk image")
        for name, content in FILES.items():
            (root / name).unlink(missing_ok=True)
            (root / name).write_text(content)
        wanted = root / "etc/systemd/system/multi-user.target.wants/ocishim-tests.service"
        if not wanted.is_symlink():
            wanted.symlink_to("/etc/systemd/system/ocishim-tests.service")
        for kind, copy in (("vmlinuz", made.kernel), ("initrd.img", made.initrd)):
            [only] = (root / "boot").glob(f"{kind}-*")
            shutil.copyfile(only, copy)
        unfinished = made.image.with_name("image-unfinished")
        self._run(
            *("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(root)),
            *(str(unfinished), SIZE),
        )
        unfinished.rename(made.image)

    def _run(self, *command: str) -> None:
        """Run a step of the build; its output goes to the log. Ends with us, however we end."""
        with self._log.open("ab") as log:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", *command],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
        if done.returncode != 0:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise BuildError(f"{command[0]} failed with code {done.returncode}; {self._log} ends with:\n{tail}")
