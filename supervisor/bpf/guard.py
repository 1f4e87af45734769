"""The guard: probes of BPF LSM, for kernels that have it.

It is put beside the fence's pins once the fence stands, and tried: a program in a cgroup of its own
does what the guard denies, and each denial must be told. Being listed as a security module proves
nothing, and where bpf is not among `lsm=`, its programs are attached and never run. What was not
seen to deny everything does not stand, and is taken out again.

A call is guarded from `arm` on: until then the runtime builds its sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.bpf import layout, pins
from supervisor.bpf.decode import DeniedRecord, decode
from supervisor.bpf.libbpf import library
from supervisor.bpf.maps import BPF_NOEXIST, BpfMap
from supervisor.bpf.objects import ProbeObject
from supervisor.bpf.rings import Ring
from supervisor.errors import HostError
from supervisor.linux.process import ENVIRONMENT

log = logging.getLogger("stockade.guard")

GUARD = "guard"
GUARD_PROGRAMS = (
    "guard_exec", "guard_mmap", "guard_mprotect", "guard_noexec", "guard_mount", "guard_move",
    "guard_remount", "guard_unmount", "guard_pivot", "guard_make", "guard_ptrace", "guard_traceme",
    "guard_userns", "guard_bpf", "guard_map", "guard_program",
)  # fmt: skip
GUARD_MAPS = ("guards", "ours")

BPF_PROG_TYPE_LSM = 29
"""include/uapi/linux/bpf.h"""

TRIAL_CGROUP = "guard-trial"
TRIAL_S = 20.0
GUARDED = "guarded"
"""What the canary is told where it is to try the guard as well."""

ATTEMPTS_FROM = 10
ATTEMPTS = (
    "running a program in memory", "mapping a file in memory as code",
    "turning a mapping of a file into code", "running a file of a noexec mount", "mounting",
    "reading a process outside", "making a user namespace", "bpf(2)",
)  # fmt: skip
"""What the canary tries, in its order: it ends with the first one's number that was not denied."""

TRIED: Mapping[str, int] = {
    "exec": 2, "mmap": 1, "mprotect": 1, "mount": 1, "ptrace": 1, "userns": 1, "bpf": 1,
}  # fmt: skip
"""How many denials of each name come of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """Whether the guard, which needs BPF LSM, stands; `why` says it where it does not."""

    standing: bool
    why: str = ""


def canary_fault(code: int) -> str:
    """Say what the canary's exit code means for the guard; empty where it is not about that."""
    number = code - ATTEMPTS_FROM
    return f"{ATTEMPTS[number]} is not denied" if 0 <= number < len(ATTEMPTS) else ""


def untold(names: Sequence[str]) -> list[str]:
    """Say which denials of the canary are missing among the names of those that were told."""
    return [name for name, count in TRIED.items() if names.count(name) < count]


def skipped_by_kernel() -> str:
    """Say why this kernel would leave the guard's programs out at times; empty where it never does.

    Before 6.2 an LSM program is not run where another task was interrupted in it on the same
    processor (kernel commit 271de525e1d7): a kernel that interrupts itself fails open.
    """
    uname = os.uname()
    version = [int(number) for number in re.findall(r"\d+", uname.release)[:2]]
    if version >= [6, 2]:
        return ""
    words = uname.version.split()
    chosen = "preempt=full" in Path("/proc/cmdline").read_text().split()
    if "PREEMPT_RT" in words or "PREEMPT" in words or chosen:
        return f"Linux {uname.release} leaves LSM programs out where it preempts itself"
    return ""


def refused_by_kernel() -> str:
    """Say whether this kernel permits no program of BPF LSM at all; empty where it may.

    It is what loading would tell, without the tens of milliseconds that it takes to prepare that.
    Any other answer is left to loading and to the trial.
    """
    supported = library().libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_LSM, None) == 1
    if supported or ctypes.get_errno() != errno.EPERM:
        return ""
    return "the kernel permits no program of BPF LSM"


class Guard:
    """The guard of one fence; where it does not stand, `state` says why and nothing is armed."""

    def __init__(self, path: Path, folder: Path, level: int) -> None:
        self._path = path
        self._folder = folder
        self._level = level
        self._maps = contextlib.ExitStack()
        self.links: list[pins.Link] = []
        self.trial_id = 0
        self.state = GuardState(standing=False, why="it was not tried")

    def open(self, shared: Mapping[str, int], fence_links: Iterable[int]) -> None:
        """Put it in place, or take over that of a former daemon; `try_it` next. Blocks.

        `shared` are the fence's maps, `fence_links` the descriptors of its links.
        """
        try:
            refusal = skipped_by_kernel() or refused_by_kernel()
            if refusal:
                raise HostError("GUARD_REFUSED", refusal)
            if not all((self._folder / "links" / name).exists() for name in GUARD_PROGRAMS):
                self._install(shared)
            self._open_pins()
            self._own(shared.values(), fence_links)
        except (HostError, OSError) as error:
            self._give_up(error.message if isinstance(error, HostError) else str(error))
        else:
            self.state = GuardState(standing=True)

    def _install(self, shared: Mapping[str, int]) -> None:
        with contextlib.ExitStack() as opened:
            fds = dict(shared)
            for name in GUARD_MAPS:
                # A call of a former daemon that still lives stays guarded.
                if (self._folder / "maps" / name).exists():
                    fds[name] = pins.open_map(self._folder / "maps" / name)
                    opened.callback(os.close, fds[name])
            probe = opened.enter_context(ProbeObject(self._path))
            probe.configure(self._level)
            probe.share(fds)
            probe.load()
            probe.attach(-1)
            for name, fd in probe.map_fds().items():
                if name in GUARD_MAPS and name not in fds:
                    pins.pin_map(fd, self._folder / "maps" / name)
            self._unpin("links", GUARD_PROGRAMS)
            probe.pin(self._folder / "links")

    def _unpin(self, folder: str, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / folder / name).unlink(missing_ok=True)

    def _open_pins(self) -> None:
        for name in GUARD_PROGRAMS:
            self.links.append(pins.Link(self._folder / "links" / name))
        fds = []
        for name in GUARD_MAPS:
            fds.append(pins.open_map(self._folder / "maps" / name))
            self._maps.callback(os.close, fds[-1])
        self._guards = BpfMap(fds[0], ctypes.c_uint64, layout.GuardRow, "guards")
        self._ours = BpfMap(fds[1], layout.Ours, ctypes.c_uint32, "ours")

    def _own(self, shared: Iterable[int], fence_links: Iterable[int]) -> None:
        """Say which objects are ours, and from where they may be reached."""
        inode = Path("/proc/self/ns/pid").stat().st_ino
        self._put_ours(layout.SORT_PID_NAMESPACE, inode)
        for fd in (*shared, self._guards.fd, self._ours.fd):
            self._put_ours(layout.SORT_MAP, pins.object_ids(fd)[0])
        for fd in (*fence_links, *(link.fd for link in self.links)):
            link, program = pins.object_ids(fd)
            self._put_ours(layout.SORT_LINK, link)
            self._put_ours(layout.SORT_PROGRAM, program)

    def _put_ours(self, sort: int, number: int) -> None:
        self._ours.put(layout.Ours(sort=sort, id=number), ctypes.c_uint32(1))

    def own_rings(self, ids: Iterable[int]) -> None:
        """Say that these maps are ours, too.

        Raises:
            OSError: as the kernel says: E2BIG where there are too many.
        """
        if self.state.standing:
            for number in ids:
                self._put_ours(layout.SORT_MAP, number)

    def try_it(
        self,
        parent: Path,
        canary: Path,
        calls: BpfMap[ctypes.c_uint64, layout.CallRow],
        ring: Ring,
    ) -> None:
        """See that everything is denied and told, in a cgroup below `parent`. Blocks."""
        folder = parent / TRIAL_CGROUP
        try:
            folder.mkdir(exist_ok=True)
            self.trial_id = folder.stat().st_ino
            key = ctypes.c_uint64(self.trial_id)
            calls.put(key, layout.CallRow(ring=ring.place))
            try:
                self.arm(self.trial_id, ())
                fault = self._trial(folder, canary, ring)
            finally:
                self._guards.delete(key)
                calls.delete(key)
            folder.rmdir()
        except (OSError, HostError, subprocess.SubprocessError) as error:
            # What is left in the cgroup is ended with the calls of former daemons.
            fault = str(error)
        if fault:
            self._give_up(fault)

    def _trial(self, folder: Path, canary: Path, ring: Ring) -> str:
        done = subprocess.run(
            [canary, folder, GUARDED], env=dict(ENVIRONMENT), check=False, timeout=TRIAL_S
        )
        told: list[str] = []
        while raw := ring.read():
            told += [
                record.refused.name
                for record in map(decode, raw)
                if isinstance(record, DeniedRecord) and record.call == self.trial_id
            ]
        if done.returncode:
            fault = canary_fault(done.returncode) or f"a canary ended with {done.returncode}"
            return f"it is attached, but {fault}: is bpf among the security modules (lsm=)?"
        missing = untold(told)
        return f"denied, but not told: {', '.join(missing)}" if missing else ""

    def _give_up(self, why: str) -> None:
        log.info("the guard does not stand: %s", why)
        self.state = GuardState(standing=False, why=why)
        self.close()
        self._unpin("links", GUARD_PROGRAMS)
        self._unpin("maps", GUARD_MAPS)

    def arm(self, cgroup_id: int, mounts: Sequence[tuple[int, bool]]) -> bool:
        """Guard a call from here on; say whether there is a guard. See `Fence.arm`."""
        if not self.state.standing:
            return False
        if len(mounts) > layout.MOUNTS_MAX:
            raise HostError(
                "WALL_NOT_STANDING",
                f"guard: {len(mounts)} writable mounts, and it knows {layout.MOUNTS_MAX} at most",
                hint="have fewer files.write in the profile",
            )
        row = layout.GuardRow(armed=1, count=len(mounts))
        for number, (device, runs) in enumerate(mounts):
            row.mounts[number] = layout.Writable(device=kernel_device(device), exec=runs)
        key = ctypes.c_uint64(cgroup_id)
        try:
            self._guards.put(key, row, BPF_NOEXIST)
            found = self._guards.get(key)
        except OSError as error:
            raise HostError("WALL_NOT_STANDING", f"guard: {error}") from error
        if found is None or bytes(found) != bytes(row):
            raise HostError("WALL_NOT_STANDING", "guard: the call's row is not what was written")
        return True

    def disarm(self, cgroup_id: int) -> None:
        """Forget a call; its processes are dead."""
        if self.state.standing:
            self._guards.delete(ctypes.c_uint64(cgroup_id))

    def disarm_all(self) -> None:
        """Forget the calls of a former daemon; their processes are dead."""
        if self.state.standing:
            for key in list(self._guards.all_keys()):
                self._guards.delete(key)

    def close(self) -> None:
        """Let go of it; what is pinned stays."""
        for link in self.links:
            link.close()
        self.links = []
        self._maps.close()


def kernel_device(device: int) -> int:
    """Give a device of stat(2) as the kernel has it inside."""
    return os.major(device) << 20 | os.minor(device)
