"""Find what a daemon left behind: processes, mounts, namespaces and cgroups.

A process or a mount is a daemon's if a path under its folders shows in it: in a command line or in
what is mounted where the process lives. That finds also what sits in another mount namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.linux import cgroup

PROC = Path("/proc")
NAMESPACES = ("net", "mnt", "pid", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a running daemon has that nobody else may have after it."""

    folders: tuple[Path, ...]
    cgroup: str
    namespaces: frozenset[str] = frozenset()

    def with_namespaces(self, more: frozenset[str]) -> Footprint:
        """Add the namespaces of a daemon that has just been started over the same folders."""
        return replace(self, namespaces=self.namespaces | more)

    def leftovers(self, beside: int | None = None) -> list[str]:
        """Name each thing of the daemon that is still there, `beside` that process and what it
        keeps for itself while it lives."""
        # The cgroup above all sandboxes, and the file system with the pins of the probes.
        top = [f"cgroup {tree / self.cgroup}" for tree in cgroup.detect().trees]
        return [
            *self._processes(beside),
            *(line for line in self._cgroups() if beside is None or line not in top),
        ]

    def _processes(self, beside: int | None) -> Iterator[str]:
        """Every namespace but a pinned one lives only as long as a process in it, and a pinned
        one is a mount, so processes and what they see mounted is all there is to look at."""
        needles = [os.fsencode(folder) for folder in self.folders]
        seen_mounts: set[bytes] = set()
        for process in _processes():
            if process.name == str(beside):
                continue
            command, mounts = _read(process / "cmdline"), _read(process / "mountinfo")
            if any(needle in command for needle in needles):
                yield f"process {process.name}: {command.replace(bytes(1), b' ')!r}"
            for line in mounts.splitlines():
                if beside is not None and b" - bpf bpf " in line:
                    continue
                if any(needle in line for needle in needles) and line not in seen_mounts:
                    seen_mounts.add(line)
                    yield f"mount, seen by process {process.name}: {line!r}"
            shared = self.namespaces & namespaces(int(process.name))
            if shared:
                yield f"process {process.name} in {sorted(shared)}"

    def _cgroups(self) -> Iterator[str]:
        for tree in cgroup.detect().trees:
            top = tree / self.cgroup
            for folder, _, _ in os.walk(top):
                yield f"cgroup {folder}"
                for line in _read(Path(folder) / "cgroup.procs").split():
                    yield f"process {line.decode()} in cgroup {folder}"


def namespaces(pid: int) -> frozenset[str]:
    """Give the namespaces of a process that are not ours, as `net:[4026531840]`."""
    found = {_link(PROC / str(pid) / "ns" / name) for name in NAMESPACES}
    own = {_link(PROC / "self" / "ns" / name) for name in NAMESPACES}
    return frozenset(found - own - {""})


def _processes() -> Iterator[Path]:
    return (entry for entry in PROC.iterdir() if entry.name.isdigit())


def _read(path: Path) -> bytes:
    """Read a file of /proc or of a cgroup; nothing where its process has just gone."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno == errno.EINVAL:  # a process that has left its mount namespace: dying
            return b""
        raise


def _link(path: Path) -> str:
    """Read a link of /proc; "" where its process has just gone, or is of those that even root may
    not look into: the init of a machine that is itself confined. Nothing of ours is."""
    try:
        return str(path.readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
