"""What this host is: facts for the record, and the programs that walls need."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

from supervisor.call.types import Json
from supervisor.errors import HostError
from supervisor.linux.process import ENVIRONMENT

MACHINE = "x86_64"
"""The only architecture whose system calls the profiles' table knows."""


def find_program(name: str) -> str:
    """Give the absolute path of a program in the fixed search path.

    Raises:
        HostError: `PROGRAM_MISSING`, with the package that has it.
    """
    path = shutil.which(name, path=ENVIRONMENT["PATH"])
    if path is None:
        raise HostError(
            "PROGRAM_MISSING", f"{name} is not installed", hint=f"apt-get install {name}"
        )
    return path


def run_program(argv: list[str], timeout_s: float = 30.0, *, pass_fds: tuple[int, ...] = ()) -> str:
    """Run a helper program without a shell and without our environment; give its stdout.

    Of our descriptors it gets `pass_fds`.

    Raises:
        HostError: `PROGRAM_FAILED`, with what it said.
    """
    result = subprocess.run(
        argv,
        env=dict(ENVIRONMENT),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        pass_fds=pass_fds,
    )
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip()
        raise HostError("PROGRAM_FAILED", f"{' '.join(argv)}: exit {result.returncode}: {said}")
    return result.stdout.decode(errors="replace")


@functools.cache
def facts() -> dict[str, Json]:
    """Give what the record says of the host in each INTENT: kernel, machine, runtime."""
    uname = os.uname()
    return {
        "hostname": uname.nodename,
        "kernel": uname.release,
        "kernel_version": uname.version,
        "machine": uname.machine,
        "python": platform.python_version(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }


def seccomp_actions() -> frozenset[str]:
    """Give the seccomp actions that this kernel knows."""
    return frozenset(Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split())


@functools.cache
def filter_knows(syscall: str) -> bool:
    """Say whether the library that compiles filters knows a system call by name.

    The runtime passes over names that libseccomp does not know: they fall to the filter's
    default, which is denied, but without a name and without being killed.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return int(library.seccomp_syscall_resolve_name(syscall.encode())) >= 0


def check_host() -> None:
    """Refuse a host that cannot raise the walls at all.

    Raises:
        HostError: ROOT_REQUIRED, MACHINE_UNSUPPORTED or SECCOMP_NOTIFY_MISSING.
    """
    if os.geteuid() != 0:
        raise HostError(
            "ROOT_REQUIRED",
            "the daemon makes namespaces and cgroups, so it runs as root",
            hint="run it as root, as with sudo",
        )
    if platform.machine() != MACHINE:
        raise HostError(
            "MACHINE_UNSUPPORTED", f"{platform.machine()}: only {MACHINE} is supported so far"
        )
    if "user_notif" not in seccomp_actions():
        raise HostError(
            "SECCOMP_NOTIFY_MISSING",
            "this kernel has no seccomp user notification",
            hint="Linux 5.0 or later with CONFIG_SECCOMP_FILTER",
        )
