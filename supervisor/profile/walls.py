"""The walls that a profile may `require:`: one supported host has them, another does not.

All others stand around every call on every host, or the call does not start. To ask for one of
those would say nothing, so the key takes these names alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWall:
    """What it adds where it stands, and the row of `profile explain` that it belongs to."""

    adds: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WallState:
    """Whether a wall stands on a host; `why` says why not, `hint` what would change that."""

    standing: bool
    why: str = ""
    hint: str = ""


HOST_WALLS: Mapping[str, HostWall] = {
    "guard": HostWall(
        adds="BPF LSM lets no program run but those of the read-only image, whoever loads them, "
        "and no call mount, look into another or reach the probes",
        row="programs",
    ),
    "cgroup-v2": HostWall(
        adds="limits.memory counts the buffers of TCP and UDP sockets as well",
        row="resources",
    ),
}
"""By the name that `require:` takes."""

ALWAYS = frozenset({
    "container", "namespaces", "user-namespace", "no-way-out", "network", "egress", "fence",
    "syscalls", "seccomp", "identity", "capabilities", "no-new-privs", "files", "programs",
    "noexec", "resources", "memory", "swap", "swap-limit", "pids", "cpu", "record",
})  # fmt: skip
"""What people call the others."""


def missing(require: tuple[str, ...], host: Mapping[str, WallState]) -> dict[str, WallState]:
    """Give what is required and does not stand; a wall that the host says nothing of does not."""
    unknown = WallState(standing=False, why="nobody has looked for it")
    found = {name: host.get(name, unknown) for name in require}
    return {name: state for name, state in found.items() if not state.standing}
