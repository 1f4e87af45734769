"""Control groups of a call, on the unified hierarchy, the hybrid one, and plain version 1.

On a hybrid host the controllers are on version 1 and the runtime places the container into a
twin on the unified tree as well: killing goes through the twin's `cgroup.kill`, accounting through
the controllers (DESIGN §3, §12).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import HostError

ROOT = Path("/sys/fs/cgroup")
WANTED = ("memory", "pids", "cpu")
"""The controllers that a call's limits and accounts need."""

VERSION_1 = (
    "memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "hugetlb",
    "perf_event", "net_cls", "net_prio", "rdma", "misc", "systemd",
)  # fmt: skip
"""The version 1 trees in which the runtime makes a cgroup for each container."""

CPU_WEIGHT = 25
"""Of all sandboxes together, where every other service has 100 (Documentation/admin-guide/
cgroup-v2.rst, cpu.weight): a call's own weight counts among calls only."""

PARENT_ROUNDS_MAX = 10
KILL_ROUNDS_MAX = 200
KILL_ROUND_S = 0.005
NANOSECONDS_S = 1e-9
MICROSECONDS_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where this host keeps its cgroups: `unified` for kill and processes, and one for each
    controller; on a pure version 2 host they are all the same tree."""

    unified: Path
    controllers: dict[str, Path]
    pure: bool

    @property
    def trees(self) -> tuple[Path, ...]:
        """Give every distinct tree."""
        return tuple(dict.fromkeys([*self.controllers.values(), self.unified]))


def detect(mountinfo: Path = Path("/proc/self/mountinfo")) -> Hierarchies:
    """Read where the hierarchies are mounted (proc_pid_mountinfo(5)).

    Raises:
        HostError: `CGROUP_V2_REQUIRED`, where there is no cgroup2 mount: no atomic kill.
    """
    unified: list[Path] = []
    controllers: dict[str, Path] = {}
    # The kernel escapes blanks and newlines in a name, and nothing else that Python splits at.
    for line in os.fsdecode(mountinfo.read_bytes()).split("\n")[:-1]:
        left, _, right = line.partition(" - ")
        where = Path(left.split(" ")[4])
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            unified.append(where)
        elif kind == "cgroup":
            for option in options.split(","):
                controllers.setdefault(option.removeprefix("name="), where)
    if not unified:
        raise HostError(
            "CGROUP_V2_REQUIRED",
            "no cgroup2 file system is mounted, so a call could not be killed as a whole",
            hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or boot with systemd's default",
        )
    # Some programs mount a second one elsewhere; the runtime knows these two places only.
    known = [where for where in (ROOT, ROOT / "unified") if where in unified]
    tree = [*known, *unified][0]
    version1 = {name: controllers[name] for name in VERSION_1 if name in controllers}
    if "memory" in version1 and "pids" in version1:
        return Hierarchies(unified=tree, controllers=version1, pure=False)
    return Hierarchies(
        unified=tree, controllers=dict.fromkeys((*WANTED, "cpuacct"), tree), pure=True
    )


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return (1 << 63) - 1 if text == "max" else int(text)


def _fields(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.open())}


class Cgroup:
    """The cgroup of one call, `path` being relative to the root of each tree.

    The runtime makes the most of it; this reads, kills and removes it. Readings are 0 where the
    kernel keeps no such figure, and the last reading stays after the cgroup is gone.
    """

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        self._hierarchies = hierarchies
        self.path = path.strip("/")

    def _in(self, controller: str) -> Path:
        return self._hierarchies.controllers[controller] / self.path

    @property
    def unified(self) -> Path:
        """Give the folder on the unified tree."""
        return self._hierarchies.unified / self.path

    def make(self) -> int:
        """Make it on the unified tree, before the runtime makes the rest; give its id there.

        Raises:
            OSError: as the kernel says.
        """
        self.unified.mkdir(exist_ok=True)
        return self.identity()

    def identity(self) -> int:
        """Give its id on the unified tree, as the probes know it; 0 where it is not there."""
        try:
            return self.unified.stat().st_ino
        except FileNotFoundError:
            return 0

    def processes(self) -> list[int]:
        """List the process ids in the cgroup and below it."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.unified):
            try:
                with (Path(folder) / "cgroup.procs").open() as file:
                    found += [int(line) for line in file]
            except OSError as error:
                # Removed since: before it was opened, or between that and reading.
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return found

    def kill(self) -> None:
        """Send SIGKILL to every process in it, forks in flight too (cgroup.kill, Linux 5.14)."""
        with contextlib.suppress(FileNotFoundError):
            (self.unified / "cgroup.kill").write_text("1")

    def populated(self) -> bool:
        """Say whether any process, zombies aside, is left in it."""
        try:
            return _fields(self.unified / "cgroup.events").get("populated", 0) != 0
        except FileNotFoundError:
            return False

    def oom_kills(self) -> int:
        """Count processes that the OOM killer ended in it."""
        name = "memory.events" if self._hierarchies.pure else "memory.oom_control"
        try:
            return _fields(self._in("memory") / name).get("oom_kill", 0)
        except FileNotFoundError:
            return 0

    def memory_peak(self) -> int:
        """Give the highest memory use, in bytes (memory.peak: Linux 5.19)."""
        name = "memory.peak" if self._hierarchies.pure else "memory.max_usage_in_bytes"
        try:
            return _number(self._in("memory") / name)
        except FileNotFoundError:
            return 0

    def pids_refused(self) -> int:
        """Count forks that pids.max refused."""
        try:
            return _fields(self._in("pids") / "pids.events").get("max", 0)
        except FileNotFoundError:
            return 0

    def pids_peak(self) -> int:
        """Give the highest number of tasks (pids.peak: Linux 6.1 on the unified tree)."""
        try:
            return _number(self._in("pids") / "pids.peak")
        except FileNotFoundError:
            return 0

    def cpu(self) -> tuple[float, float]:
        """Give the CPU time used, in seconds: in user mode, in the kernel."""
        try:
            if self._hierarchies.pure:
                fields = _fields(self.unified / "cpu.stat")
                return (
                    fields["user_usec"] * MICROSECONDS_S,
                    fields["system_usec"] * MICROSECONDS_S,
                )
            folder = self._in("cpuacct")
            user = _number(folder / "cpuacct.usage_user")
            system = _number(folder / "cpuacct.usage_sys")
            return user * NANOSECONDS_S, system * NANOSECONDS_S
        except FileNotFoundError:
            return 0.0, 0.0

    def bound_sockets(self, size_bytes: int) -> None:
        """Bound what TCP and UDP sockets buffer, which version 1 does not charge to the memory.

        `memory.kmem.tcp` counts both, and counts only where it has a limit (mm/memcontrol-v1.c).
        Version 2 charges buffers to the memory itself. The runtime no longer sets this.

        Raises:
            OSError: it cannot be set.
        """
        if not self._hierarchies.pure:
            (self._in("memory") / "memory.kmem.tcp.limit_in_bytes").write_text(str(size_bytes))

    def sockets_peak(self) -> int:
        """Give the most that sockets buffered, in bytes; 0 where it is part of the memory."""
        if self._hierarchies.pure:
            return 0
        try:
            return _number(self._in("memory") / "memory.kmem.tcp.max_usage_in_bytes")
        except FileNotFoundError:
            return 0

    def limits(self) -> dict[str, int]:
        """Read back what is enforced: memory, memory_and_swap and sockets in bytes, pids.

        Raises:
            OSError: a limit cannot be read, so nobody can say that it stands.
        """
        memory, pids = self._in("memory"), self._in("pids")
        if self._hierarchies.pure:
            limit = _number(memory / "memory.max")
            swap = _number(memory / "memory.swap.max")
            return {
                "memory": limit,
                "memory_and_swap": limit + swap,
                "sockets": 0,
                "pids": _number(pids / "pids.max"),
            }
        return {
            "memory": _number(memory / "memory.limit_in_bytes"),
            "memory_and_swap": _number(memory / "memory.memsw.limit_in_bytes"),
            "sockets": _number(memory / "memory.kmem.tcp.limit_in_bytes"),
            "pids": _number(pids / "pids.max"),
        }

    def remove(self) -> None:
        """Remove it from every tree, with what is below it. Its processes must be gone.

        Raises:
            OSError: a folder stays busy.
        """
        for tree in self._hierarchies.trees:
            for folder in _bottom_up(tree / self.path):
                _rmdir(folder)

    def destroy(self, rounds: int = KILL_ROUNDS_MAX) -> None:
        """Kill what lives in it, wait for it to be empty, remove it; for leftovers.

        Raises:
            OSError: EBUSY, where something still lives after so many `rounds` of 5 ms.
        """
        for _ in range(rounds):
            self.kill()
            if not self.populated():
                self.remove()
                return
            time.sleep(KILL_ROUND_S)
        raise OSError(errno.EBUSY, "its processes cannot be ended", os.fspath(self.unified))


def _bottom_up(top: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(top, topdown=False):
        yield Path(folder)


def _rmdir(folder: Path) -> None:
    # A dead task leaves its cgroup a moment after it was reaped.
    for _ in range(KILL_ROUNDS_MAX):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(KILL_ROUND_S)
        else:
            return
    folder.rmdir()


def children(hierarchies: Hierarchies, parent: str) -> set[str]:
    """List the names of the cgroups right below `parent`, on any tree."""
    names: set[str] = set()
    for tree in hierarchies.trees:
        folder = tree / parent.strip("/")
        if folder.is_dir():
            names |= {entry.name for entry in folder.iterdir() if entry.is_dir()}
    return names


def make_parent(hierarchies: Hierarchies, parent: str) -> None:
    """Make the daemon's own parent cgroup on the unified tree, with its controllers passed down.

    On a hybrid host the unified tree has none, and the runtime makes the rest.

    Raises:
        HostError: `CGROUP_CONTROLLER_MISSING`, on a pure version 2 host that withholds one.
    """
    if not hierarchies.pure:
        (hierarchies.unified / parent.strip("/")).mkdir(parents=True, exist_ok=True)
        return
    _require_controllers(hierarchies.unified)
    for _ in range(PARENT_ROUNDS_MAX):
        try:
            _make_parent(hierarchies.unified, parent)
        except FileNotFoundError as error:
            # Another daemon that ended has removed what is above ours while it was empty.
            lost = error
        else:
            return
    raise _withheld(hierarchies.unified / parent.strip("/"), lost) from lost


def _require_controllers(root: Path) -> None:
    missing = set(WANTED) - set((root / "cgroup.controllers").read_text().split())
    if missing:
        raise HostError(
            "CGROUP_CONTROLLER_MISSING",
            f"{root} has no controller {', '.join(sorted(missing))}",
            hint="boot without cgroup_disable=, and with no version 1 mount that holds it",
        )


def _make_parent(root: Path, parent: str) -> None:
    folder = root
    for part in ["", *parent.strip("/").split("/")]:
        folder = folder / part
        folder.mkdir(exist_ok=True)
        try:
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in WANTED))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _withheld(folder, error) from error
    (root / parent.strip("/").split("/")[0] / "cpu.weight").write_text(str(CPU_WEIGHT))


def _withheld(folder: Path, error: OSError) -> HostError:
    return HostError(
        "CGROUP_CONTROLLER_MISSING",
        f"{folder}: cannot pass {', '.join(WANTED)} down: {error.strerror}",
        hint="where /sys/fs/cgroup is a container's, no process may be in the root of it",
    )


def remove_parent(hierarchies: Hierarchies, parent: str) -> None:
    """Remove the daemon's own parent cgroup, and what is above it where nobody else is in it.

    Raises:
        OSError: `parent` stays busy.
    """
    Cgroup(hierarchies, parent).remove()
    if not hierarchies.pure:
        # The runtime of another daemon makes its parents one by one, and would find one gone.
        return
    for above in list(Path(parent.strip("/")).parents)[:-1]:
        try:
            (hierarchies.unified / above).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            return
