"""`.ci/kernels` on hosts that have all of it, and on hosts that cannot get it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.vm import machine

SCRIPT = machine.ROOT / ".ci/kernels"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run_in_an_empty_cache(
    tmp_path: Path, *, programs: str, sources: str
) -> tuple[int, str, list[str]]:
    """Run it with a folder of its own for its cache; give its code, its reason, what it left.

    `programs` is a folder with stand-ins for what is on PATH, `sources` what apt is told.
    """
    cache = tmp_path / "cache"
    apt = tmp_path / "apt"
    for folder in (cache, apt):
        folder.mkdir()
    (apt / "sources.list").write_text(sources)
    command = f"""set -e
mkdir -p {machine.CACHE.parent}
mount --bind {shlex.quote(str(cache))} {machine.CACHE.parent}
mount --bind {shlex.quote(str(apt))} /etc/apt
exec {shlex.quote(str(SCRIPT))}
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", command],
        check=False, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{programs}:{PATH}"},
    )  # fmt: skip
    reason = cache / "vm/missing"
    left = [path.name for path in cache.glob("vm/*") if path.name not in {"missing", "lock"}]
    return done.returncode, reason.read_text().strip() if reason.exists() else "", left


@pytest.mark.root
def test_a_host_without_a_mirror_says_so_and_fails_nothing(tmp_path: Path) -> None:
    if machine.tools(machine.CACHE) is None:
        pytest.skip("this host has no QEMU to begin with: make vm-kernels")
    code, reason, left = run_in_an_empty_cache(tmp_path, programs="/nowhere", sources="")
    assert code == 0
    assert "mirror" in reason
    assert left == []


@pytest.mark.root
def test_a_host_that_is_not_of_this_architecture(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dpkg").write_text("#!/bin/sh\necho arm64\n")
    (programs / "dpkg").chmod(0o755)
    code, reason, left = run_in_an_empty_cache(tmp_path, programs=str(programs), sources="")
    assert (code, left) == (0, [])
    assert "amd64" in reason


def test_a_folder_of_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT],
        check=False,
        capture_output=True,
        env={"PATH": "/nowhere:/usr/bin:/bin", "STOCKADE_VM": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []
