"""`.ci/kernels` on hosts that have all of it, and on hosts that cannot get it."""

from __future__ import annotations

import platform
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.vm import machine

SCRIPT = machine.ROOT / ".ci/kernels"
DEBIAN = platform.freedesktop_os_release()["ID"] == "debian"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run_in_an_empty_cache(folder: Path, **programs: str) -> tuple[int, str, list[str]]:
    """Run it with a folder of its own for its cache; give its code, its reason, what it left.

    `programs` are scripts that stand in for programs of the host; _ is - in their names.
    """
    cache, stand_ins = folder / "cache", folder / "bin"
    for made in (cache, stand_ins):
        made.mkdir()
    for name, script in programs.items():
        path = stand_ins / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    command = f"""set -e
mkdir -p {machine.CACHE.parent}
mount --bind {shlex.quote(str(cache))} {machine.CACHE.parent}
exec {shlex.quote(str(SCRIPT))}
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", command],
        check=False, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{stand_ins}:{PATH}"},
    )  # fmt: skip
    reason = cache / "vm/missing"
    left = [path.name for path in cache.glob("vm/*") if path.name not in {"missing", "lock"}]
    return done.returncode, reason.read_text().strip() if reason.exists() else "", left


@pytest.mark.root
@pytest.mark.parametrize(
    ("apt_get", "said"),
    [
        ("exit 0", "no mirror of Debian"),
        (
            ". /etc/os-release; [ $1 = indextargets ] && echo $VERSION_CODENAME main file:/none/",
            "E: no such suite" if DEBIAN else "no mirror of Debian",
        ),
        ("exit 100", "no mirror of Debian"),
    ],
    ids=["no mirror", "a mirror without the suite", "broken sources"],
)
def test_a_host_that_cannot_get_it_says_so_and_fails_nothing(
    tmp_path: Path, apt_get: str, said: str
) -> None:
    update = '[ "$1" != -qq ] || { echo E: no such suite; exit 100; }'
    code, reason, left = run_in_an_empty_cache(tmp_path, apt_get=f"{update}\n{apt_get}")
    assert (code, left) == (0, [])
    assert said in reason


@pytest.mark.root
def test_a_host_of_another_architecture(tmp_path: Path) -> None:
    code, reason, left = run_in_an_empty_cache(tmp_path, dpkg="echo arm64")
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
