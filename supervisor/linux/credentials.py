"""Read back what the kernel says of a process: identity, capabilities, filter, namespaces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a process may, by the kernel's word (proc_pid_status(5))."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: int
    no_new_privs: bool
    seccomp_mode: int
    seccomp_filters: int


def standing(pid: int) -> Standing:
    """Read the standing of a process.

    Raises:
        OSError: the process is gone.
    """
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    capabilities = 0
    for name in sets:
        capabilities |= int(fields[name], 16)
    return Standing(
        uids=tuple(int(word) for word in fields["Uid"].split()),
        gids=tuple(int(word) for word in fields["Gid"].split()),
        groups=tuple(int(word) for word in fields["Groups"].split()),
        capabilities=capabilities,
        no_new_privs=fields["NoNewPrivs"].strip() == "1",
        seccomp_mode=int(fields["Seccomp"]),
        seccomp_filters=int(fields.get("Seccomp_filters", "0")),
    )


def shared_namespaces(pid: int) -> list[str]:
    """List the namespaces that a process shares with this one."""
    return [
        name
        for name in NAMESPACES
        if Path(f"/proc/{pid}/ns/{name}").readlink() == Path(f"/proc/self/ns/{name}").readlink()
    ]


def cgroup_of(pid: int) -> dict[str, str]:
    """Give the cgroup paths of a process, by controller list; "" is the unified tree."""
    lines = os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes()).split("\n")[:-1]
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
