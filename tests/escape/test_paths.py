"""Path games: dots, links, /proc/*/root, and files of the kernel that change the host.

Nothing here is decided by the text of a path: what is not mounted is not there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.escape.arena import confined, on_host
from tests.support.daemon import Daemon

CANARY = "canary: this file is the host's"
READS = (
    "plain", "dots", "own root", "init's root", "init's cwd", "parent's root", "thread's root",
    "link",
)  # fmt: skip
GONE = {"ENOENT", "EACCES", "EPERM", "EROFS"}
HARMLESS = {
    "/proc/self/oom_score_adj": {"EROFS"},
    "/proc/self/attr/exec": {"EROFS", "ENOENT"},
    "/dev/full": {"ENOSPC"},
    "/proc/self/mem": {"EIO", "EROFS"},  # its own memory, at address 0; it cannot be written to
    "/proc/kallsyms": {""},
    "/proc/keys": {""},
    "/proc/kcore": {"", "ENOENT"},
}
"""What a sandbox may open: its own, and what is masked by /dev/null."""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.write_text(CANARY)
    return path


@pytest.fixture
def inside(daemon: Daemon, canary: Path) -> dict[str, Any]:
    found: dict[str, Any] = confined(daemon, "paths.py", str(canary)).said()
    return found


def test_no_path_leads_to_a_file_of_the_host(
    canary: Path, tmp_path: Path, inside: dict[str, Any]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    outside = json.loads(on_host("paths.py", str(canary), str(folder)).stdout)
    worked = [name for name in READS if outside[name] == CANARY]
    assert {"plain", "own root", "thread's root", "link"} <= set(worked)
    assert {name: inside[name] for name in READS if inside[name] not in GONE} == {}


def test_nothing_of_the_kernel_or_of_init_can_be_opened(inside: dict[str, Any]) -> None:
    paths = [name for name in inside if name not in (*READS, "/dev")]
    assert len(paths) > 30
    opened = {n: inside[n] for n in paths if inside[n] not in HARMLESS.get(n, GONE)}
    assert opened == {}


def test_dev_holds_only_what_programs_need(inside: dict[str, Any]) -> None:
    # The runtime links core to /proc/kcore where the kernel has one; what is there is masked.
    assert set(inside["/dev"]) - {"core"} == {
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    }  # fmt: skip
