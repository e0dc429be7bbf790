"""`ocishim check` says what the host lacks, and `images load` works as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rpc.node import Node


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ocishim", *arguments]
    return subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)


def test_a_host_that_runs_pods_lacks_nothing_that_blocks(node: Node) -> None:
    found = command("check", "--config", str(node.config), "--output", "json")
    assert found.returncode == 0, found.stdout + found.stderr
    findings = {finding["what"]: finding for finding in json.loads(found.stdout)}
    assert findings["conmon"]["ok"]
    assert findings["CNI network"]["ok"]
    assert findings[f"overlayfs on {node.root}"]["ok"]
    assert not any(finding["blocks"] for finding in findings.values())


def test_what_is_missing_is_named_with_its_cure(node: Node, tmp_path: Path) -> None:
    broken = tmp_path / "config.toml"
    broken.write_text(f'[containers]\nconmon = "/no/conmon"\n[cni]\nconf_dir = "{tmp_path}"\n')
    found = command("check", "--config", str(broken), "--root", str(node.root))
    assert found.returncode == 1
    assert "/no/conmon is not there" in found.stdout
    assert "apt-get install conmon" in found.stdout
    assert "only pods on the host's network can run" in found.stdout


def test_images_are_loaded_by_command(node: Node, layout: Path) -> None:
    found = command("images", "load", str(layout), "--listen", f"unix://{node.socket}", "--output", "json")
    assert found.returncode == 0, found.stderr
    assert "docker.io/library/busybox:latest" in {
        reference for image in json.loads(found.stdout) for reference in image["references"]
    }


def test_a_layout_that_is_none_is_one_line_and_exit_code_1(node: Node, tmp_path: Path) -> None:
    found = command("images", "load", str(tmp_path), "--listen", f"unix://{node.socket}")
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert str(tmp_path) in found.stderr
