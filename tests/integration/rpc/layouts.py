"""Small images made on the spot: Debian's static busybox in one layer, and several configurations over it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1000:\nwheel:x:10:alice\nstaff:x:50:\n"
NAME = "docker.io/library/{}:latest"
CONFIGS: dict[str, dict[str, object]] = {
    "busybox": {"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM=image"]},
    "entry": {"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "Env": ["PATH=/bin"], "WorkingDir": "/srv/made"},
    "user": {"User": "alice", "Cmd": ["id"], "Env": ["PATH=/bin"]},
    "stopper": {"StopSignal": "SIGUSR1", "Cmd": ["sh"], "Env": ["PATH=/bin"]},
    "nothing": {"Env": ["PATH=/bin"]},
}


def write(layout: Path) -> None:
    """Write a layout with all images to the existing directory."""
    (layout / "blobs/sha256").mkdir(parents=True)
    tree = _tree()
    layer = _blob(layout, gzip.compress(tree, 1, mtime=0)) | {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"
    }
    manifests = []
    for name, defaults in CONFIGS.items():
        config = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": defaults,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tree).hexdigest()}"]},
        }
        described = _blob(layout, json.dumps(config).encode()) | {
            "mediaType": "application/vnd.oci.image.config.v1+json"
        }
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": [layer]}
        entry = _blob(layout, json.dumps(manifest).encode())
        manifests.append(entry | {"mediaType": kind, "annotations": {"io.containerd.image.name": NAME.format(name)}})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _tree() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory, mode in (
            ("bin", 0o755),
            ("etc", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
            ("var", 0o755),
            ("var/tmp", 0o1777),
        ):
            _add(tar, directory, tarfile.DIRTYPE, mode)
        _add(tar, "escape", tarfile.SYMTYPE, 0o777, link="../../../../var/tmp")
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, content=BUSYBOX.read_bytes())
        listing = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
        for applet in sorted(set(listing.stdout.split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        _add(tar, "etc/passwd", tarfile.REGTYPE, 0o644, content=PASSWD.encode())
        _add(tar, "etc/group", tarfile.REGTYPE, 0o644, content=GROUP.encode())
        _add(tar, "etc/notexecutable", tarfile.REGTYPE, 0o644, content=b"#!/bin/sh\n")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, *, content: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    tar.addfile(entry, io.BytesIO(content))


def _blob(layout: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}
