"""What the daemon needs where it runs: no compiler, no LLVM, no kernel headers, no bpftool.

Its whole process tree sees a host without them. The probes come as objects and are fitted to the
kernel by its own BTF.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from tests.support.daemon import STOCKADE, running_daemon

PROGRAMS = ("clang", "clang-14", "gcc", "cc", "bpftool", "ld", "llc-14", "llvm-strip-14")
PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
FOLDERS = ("/usr/include", "/usr/lib/llvm-14", "/usr/lib/gcc", "/usr/src", "/lib/modules")
LIBRARIES = ("libLLVM*", "libclang*", "libbcc*")


def hidden() -> tuple[list[Path], list[Path]]:
    """Give the programs and libraries, and the folders, that a lean host does not have."""
    files = [Path(place) / name for place in PLACES for name in PROGRAMS]
    for pattern in LIBRARIES:
        files += Path("/usr/lib/x86_64-linux-gnu").glob(pattern)
    there = {path.resolve() for path in files if path.exists()}
    return sorted(there), [path for path in map(Path, FOLDERS) if path.is_dir()]


def lean(*command: str) -> list[str]:
    """Wrap a command: it runs, with its own process id, where nothing of that is to be seen."""
    files, folders = hidden()
    lines = [f"mount --bind /dev/null {shlex.quote(str(path))}" for path in files]
    lines += [f"mount -t tmpfs none {shlex.quote(str(path.resolve()))}" for path in folders]
    script = " && ".join([*lines, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


def test_the_host_is_lean() -> None:
    script = "command -v clang-14 gcc bpftool; ls /usr/include /usr/lib/llvm-14"
    outside = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    inside = subprocess.run(lean("sh", "-c", script), check=False, capture_output=True, text=True)
    assert "/usr/bin/clang-14" in outside.stdout.split()
    assert "stdio.h" in outside.stdout.split()
    assert inside.stdout.split() == ["/usr/include:", "/usr/lib/llvm-14:"]


def test_a_call_is_fenced_without_any_of_it() -> None:
    with running_daemon(program=lean(str(STOCKADE))) as daemon:
        call = daemon.client.run(["true"], profile="base", check=True)
        kinds = [entry.kind for entry in daemon.client.record(call.call_id).entries]
        # Told by a probe, after a canary was denied and told by another.
        assert "processes" in kinds
