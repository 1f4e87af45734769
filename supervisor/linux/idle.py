"""A cgroup for what has the processor only while nobody else needs it.

A priority (nice(2), SCHED_IDLE) counts among the processes of one cgroup, or of one session where
the kernel groups those (sched(7), the autogroup feature). Whole groups are weighed against each
other, whatever is in them: beside the cgroups of calls, a process of priority 19 in another one
weighs as much as they do.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from supervisor.linux.cgroup import Hierarchies
from supervisor.linux.credentials import cgroup_of

NAME = "stockade-idle"
ROUNDS_MAX = 10


def put(hierarchies: Hierarchies, pid: int, *, idly: bool = True) -> None:
    """Move a process there (cgroup-v2.rst, cpu.idle; since Linux 5.15), or to where we are; 0 is
    this one.

    Raises:
        OSError: the kernel has no such thing, or does not let us.
    """
    if not idly:
        (_tree(hierarchies) / group_of(os.getpid()) / "cgroup.procs").write_text(str(pid))
        return
    folder = _tree(hierarchies) / NAME
    if hierarchies.pure:
        (hierarchies.unified / "cgroup.subtree_control").write_text("+cpu")
    for _ in range(ROUNDS_MAX):
        try:
            folder.mkdir(exist_ok=True)
            (folder / "cpu.idle").write_text("1")
            (folder / "cgroup.procs").write_text(str(pid))
        except FileNotFoundError as error:
            if folder.is_dir():
                raise
            lost = error  # Another daemon has removed it while it was empty.
        else:
            return
    raise lost


def remove(hierarchies: Hierarchies) -> None:
    """Remove it where nobody is in it any more.

    Raises:
        OSError: as the kernel says.
    """
    try:
        (_tree(hierarchies) / NAME).rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EBUSY):
            raise


def group_of(pid: int) -> str:
    """Give the cgroup that a process has the processor in, from the root of its tree."""
    groups = cgroup_of(pid)
    found = [where for names, where in groups.items() if "cpu" in names.split(",")]
    return [*found, groups.get("", "")][0].strip("/")


def _tree(hierarchies: Hierarchies) -> Path:
    if "cpu" not in hierarchies.controllers:
        raise FileNotFoundError(errno.ENOENT, "no cgroup has the processor", "cpu")
    return hierarchies.controllers["cpu"]
