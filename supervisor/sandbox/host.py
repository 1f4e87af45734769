"""What all sandboxes of one daemon share, and the end of those that a former daemon left."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.bpf.decode import ExecRecord
from supervisor.bpf.fence import Fence, FencePlaces
from supervisor.bpf.watch import Told
from supervisor.call.about import of_call
from supervisor.call.events import PROBE_EVENTS, Lost
from supervisor.call.types import Json
from supervisor.egress.client import Zygote
from supervisor.errors import AuditUnavailable, HostError, StockadeError
from supervisor.linux import cgroup, mounts, process
from supervisor.linux.devices import make_devices, remove_mount
from supervisor.linux.host import check_host, facts
from supervisor.linux.mounts import BpfFolder
from supervisor.oci.crun import Crun
from supervisor.oci.images import ImageStore
from supervisor.oci.rootfs import RootFolders
from supervisor.oci.runtime import Runc, Runtime
from supervisor.profile.model import EffectiveProfile
from supervisor.profile.schema import ENFORCE
from supervisor.profile.walls import WallState
from supervisor.sandbox.door import CallDoor, EgressOptions
from supervisor.sandbox.fenced import Event, events_of, missing_of, not_recorded
from supervisor.sandbox.listener import NotifyListener
from supervisor.sandbox.places import find_canary, find_cell, find_probes
from supervisor.sandbox.secrets import CallSecrets
from supervisor.sandbox.uids import UidRanges, base_of

RUNTIMES: tuple[type[Runtime], ...] = (Runc, Crun)
PARENT_CGROUP = "stockade"
BROKER_ROOT = "broker"
FOLDERS = (*(runtime.NAME for runtime in RUNTIMES), "bundles", "roots", BROKER_ROOT)
SOCKET_NAME = "seccomp.sock"
SOCKET_PATH_BYTES_MAX = 107
"""unix(7): sun_path, with its NUL."""

FILE_THREADS = 4
OUTPUT_THREADS = 2
"""Of its own, and few: a call that left a million files keeps nobody but its like waiting."""

PURE = "boot with systemd.unified_cgroup_hierarchy=1"
REAP_ROUNDS_MAX = 400
REAP_ROUND_S = 0.01

log = logging.getLogger("stockade.sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """Where sandboxes live, and the programs that they are built with: `cell` is the init's binary,
    on a file system that allows exec."""

    state: Path
    runtime: Path
    cell: Path = field(default_factory=find_cell)
    canary: Path = field(default_factory=find_canary)
    probes: Path = field(default_factory=find_probes)
    egress: EgressOptions = field(default_factory=EgressOptions)

    @property
    def folder(self) -> Path:
        """Give the folder of this daemon, by its state folder's name."""
        return self.runtime / instance_of(self.state)

    @property
    def pins(self) -> Path:
        """Give the folder where the bpf file system of this daemon is mounted."""
        return self.folder / "bpf"

    def check_owner(self) -> None:
        """Refuse folders that somebody else could change, before anything is made in them.

        Raises:
            HostError: `FOLDER_NOT_OURS`.
        """
        for folder in (self.state, self.runtime, self.folder):
            _require_own(folder)

    def mount_pins(self) -> BpfFolder:
        """Mount where pins go, or find it mounted.

        Raises:
            HostError: `RUNTIME_DIR_UNUSABLE`.
        """
        with _usable(self.runtime):
            return BpfFolder(self.pins)

    def check(self) -> None:
        """Refuse places that do not do, before anything is made: then nothing is left behind.

        Raises:
            HostError: `CELL_MISSING`, `FOLDER_NOT_OURS`, `FOLDER_CLOSED`, `RUNTIME_DIR_TOO_LONG`,
                or what `check_host` says.
        """
        check_host()
        for program in (self.cell, self.canary):
            if not os.access(program, os.X_OK):
                raise HostError(
                    "CELL_MISSING",
                    f"{program}: a sandbox's program is not built",
                    hint="make setup",
                )
        self.check_owner()
        _require_short(self.folder / SOCKET_NAME)
        _require_passable(self.folder / "roots")
        _require_passable(self.cell.resolve())


class SandboxHost:
    """The places and programs that sandboxes are made with.

    Everything of one daemon is named after its state directory, so that two daemons on a host
    never touch what is the other's, and a new one finds what the former left.
    """

    def __init__(self, options: SandboxOptions, bpf: BpfFolder | None = None) -> None:
        """Take the places; `bpf` is where pins go, mounted here where it was not before."""
        options.check()
        self.instance = instance_of(options.state)
        self.folder = options.folder
        self.cell = options.cell.resolve()
        self.canary = options.canary.resolve()
        self.hierarchies = cgroup.detect()
        self.parent = f"{PARENT_CGROUP}/{self.instance}"
        with _usable(options.runtime):
            for name in FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o711)
        _require_passable(self.folder / "roots")
        self._lock = self._take_lock()
        self._bpf = bpf or options.mount_pins()
        self.fence = Fence(
            FencePlaces(
                objects=options.probes,
                pins=self._bpf.path,
                cgroup=self.hierarchies.unified / self.parent,
                level=self.parent.count("/") + 2,
                canary=self.canary,
            )
        )
        self._egress = options.egress
        self._zygote = Zygote(self.folder / BROKER_ROOT)
        self.leftovers: dict[str, Told] = {}
        self.reaped = 0
        """How many sandboxes of a former daemon `open` ended."""
        self._runtimes: dict[str, Runtime] = {Runc.NAME: Runc(self.folder / Runc.NAME)}
        self.uids = UidRanges(options.runtime / "uids.lock")
        self.devices = self.folder / "dev"
        self.listener = NotifyListener(self.folder / SOCKET_NAME)
        self.roots = RootFolders(
            self.folder / "roots", ImageStore(options.state), mounts.mount_overlay
        )
        self.outputs = concurrent.futures.ThreadPoolExecutor(OUTPUT_THREADS, "outputs")
        self.files = concurrent.futures.ThreadPoolExecutor(FILE_THREADS, "files")
        self.facts: dict[str, Json] = {**facts(), "runtime": self.runtime(Runc.NAME).version}

    def _take_lock(self) -> int:
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AuditUnavailable(
                "STATE_LOCKED", f"another daemon holds {self.folder}", hint="stockade ps"
            ) from None
        return fd

    def open(self) -> None:
        """End what a former daemon left and get ready for calls. Blocks; call it at start."""
        process.become_subreaper()
        cgroup.make_parent(self.hierarchies, self.parent)
        try:
            self.fence.open()
        except StockadeError:
            self._bpf.close_if_empty()
            raise
        # Without their cgroups nobody knows whose events they are: so before these go.
        self.fence.mark_reading()
        ids = {self.cgroup(name).identity(): name for name in self.reap_names()}
        self.reaped = len(self.reap())
        found = self.fence.leftovers()
        self.leftovers = {ids[number]: left for number, left in found.items() if number in ids}
        make_devices(self.devices)
        self.listener.open()

    def leftover_events(
        self, call_id: str, recorded: Iterable[object], mode: str = ENFORCE
    ) -> tuple[Event, ...]:
        """Give, once, what the probes had to tell of a call of a former daemon besides what is
        `recorded` of it; where nobody can know, that something may be lost. `mode` is its
        profile's."""
        left, known = self.leftovers.pop(call_id, None), list(recorded)
        events: list[Event] = []
        if left is not None:
            base = base_of(one.uid for one in left.processes if isinstance(one, ExecRecord))
            try:
                events += events_of(not_recorded(left, known), base, mode)
                events += missing_of(left, known) if not self.fence.gap else ()
            except Exception:
                # What one call left keeps no daemon from starting.
                log.exception("what call %s left cannot be told", call_id, extra=of_call(call_id))
                events.append(Lost(what=PROBE_EVENTS, count=0, reason="EVENT_MALFORMED"))
        if self.fence.gap:
            events.append(Lost(what=PROBE_EVENTS, count=0, reason=self.fence.gap))
        return tuple(events)

    def all_told(self) -> None:
        """Say that all calls of a former daemon are closed, with their `leftover_events`.

        Raises:
            OSError: as the kernel says.
        """
        self.fence.close_gap()

    def walls(self) -> dict[str, WallState]:
        """Say which of `HOST_WALLS` stand here, now."""
        guard = self.fence.guard
        version_1 = "" if self.hierarchies.pure else "its memory controller is of version 1"
        return {
            "guard": WallState(
                standing=guard.standing,
                why=guard.why,
                hint="" if guard.standing or _lists_bpf() else "boot with bpf among lsm=",
            ),
            "cgroup-v2": WallState(
                standing=self.hierarchies.pure,
                why=version_1,
                hint=PURE if version_1 else "",
            ),
        }

    def runtime(self, name: str) -> Runtime:
        """Give the runtime that a profile names; never another in its place.

        Raises:
            HostError: `PROGRAM_MISSING`, `RUNTIME_NEEDS_CGROUP_V2`.
        """
        if name not in self._runtimes:
            kind = next(kind for kind in RUNTIMES if name == kind.NAME)
            if kind.NEEDS_CGROUP_V2 and not self.hierarchies.pure:
                raise HostError(
                    "RUNTIME_NEEDS_CGROUP_V2",
                    f"{name} needs cgroups of version 2 alone; here controllers are of version 1",
                    hint=f"{PURE}, or runtime: {Runc.NAME}",
                )
            self._runtimes[name] = kind(self.folder / name)
        return self._runtimes[name]

    def facts_for(self, profile: EffectiveProfile) -> dict[str, Json]:
        """Give what a call's record says of the host that it ran on."""
        return {**self.facts, "runtime": self.runtime(profile.runtime).version}

    def runtimes(self) -> dict[str, WallState]:
        """Say which runtimes this host has."""
        found = {}
        for kind in RUNTIMES:
            try:
                found[kind.NAME] = WallState(standing=True, why=self.runtime(kind.NAME).version)
            except HostError as error:
                found[kind.NAME] = WallState(standing=False, why=error.message, hint=error.hint)
        return found

    def secrets(self) -> CallSecrets:
        """Give the secrets as one call reads them."""
        return CallSecrets(self._egress.secrets)

    def door(
        self, call_id: str, profile: EffectiveProfile, uid_base: int, secrets: CallSecrets
    ) -> CallDoor:
        """Give the way out of a call whose profile has one."""
        return CallDoor(
            fence=self.fence,
            zygote=self._zygote,
            call_id=call_id,
            profile=profile,
            uid_base=uid_base,
            options=self._egress,
            secrets=secrets,
        )

    async def end_brokers(self) -> None:
        """End what brokers are forked from, before `close`; every call has ended."""
        await self._zygote.close()

    def close(self) -> None:
        """Remove what all sandboxes shared; they must be gone. A step that fails keeps no other
        from being taken; where sandboxes cannot be ended, they keep the fence and their folders.

        Raises:
            HostError: `STOP_INCOMPLETE`, with everything that failed.
        """
        faults: list[str] = []
        with _noted(faults):
            self.listener.close()
        with _noted(faults) as reaped:
            self.reap()
        with _noted(faults):
            remove_mount(self.devices)
            self.devices.rmdir()
        self.uids.close()
        self.files.shutdown()
        self.outputs.shutdown()
        if not reaped.failed:
            with _noted(faults):
                self.fence.close()
            with _noted(faults):
                self._bpf.close()
            with _noted(faults):
                cgroup.remove_parent(self.hierarchies, self.parent)
            for name in FOLDERS:
                with _noted(faults):
                    shutil.rmtree(self.folder / name)
        if not faults:
            # Unlinked while it is still locked: who waits for it finds a new one.
            (self.folder / "lock").unlink()
            self.folder.rmdir()
        os.close(self._lock)
        if faults:
            raise HostError(
                "STOP_INCOMPLETE",
                f"something is left in {self.folder} or {self.parent}: {'; '.join(faults)}",
                hint="the next daemon of this state folder takes it over; umount and rmdir by hand "
                "where there is to be none",
            )

    def fence_faults(self) -> list[str]:
        """Say what of the fence is not as it was put in place. Blocks."""
        faults = self.fence.faults()
        if not self._bpf.mounted():
            # It stands for as long as we hold it, and would go with us.
            faults.append(f"fence: {self._bpf.path} is no longer mounted")
        return faults

    def cgroup(self, call_id: str) -> cgroup.Cgroup:
        """Give the cgroup of a call."""
        return cgroup.Cgroup(self.hierarchies, f"{self.parent}/{call_id}")

    def reap_names(self) -> set[str]:
        """List the calls that have a cgroup."""
        return cgroup.children(self.hierarchies, self.parent)

    def reap(self) -> list[str]:
        """Kill and remove every sandbox of this instance, whoever made it; give their call ids.

        Raises:
            HostError: `LEFTOVER_STAYS`, where something of ours cannot be ended.
        """
        for _ in range(REAP_ROUNDS_MAX):
            self._kill_runtimes()
            names = self.reap_names()
            for name in names:
                self.cgroup(name).kill()
            if not self._alive(names):
                break
            time.sleep(REAP_ROUND_S)
        else:
            raise HostError("LEFTOVER_STAYS", f"sandboxes of {self.parent} cannot be ended")
        for name in names:
            log.info("removed what was left of call %s", name, extra=of_call(name))
            self.cgroup(name).remove()
        for kind in RUNTIMES:
            # Also where that runtime is gone: what it left must go.
            self._empty(self.folder / kind.NAME)
        for name in ("bundles", "roots"):
            self._empty(self.folder / name)
        return sorted(names)

    def _alive(self, names: set[str]) -> bool:
        return bool(self._programs()) or any(self.cgroup(name).populated() for name in names)

    def _programs(self) -> list[int]:
        """List runtime processes of a former daemon: they work on our state folders."""
        markers = {os.fsencode(self.folder / kind.NAME) for kind in RUNTIMES}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    # Anybody can put a name into his own arguments; only root's run for us.
                    if entry.stat().st_uid != os.geteuid():
                        continue
                    if markers & set((entry / "cmdline").read_bytes().split(b"\0")):
                        found.append(int(entry.name))
        return found

    def _kill_runtimes(self) -> None:
        for pid in self._programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.reap_strangers()

    @staticmethod
    def _empty(folder: Path) -> None:
        for entry in folder.iterdir():
            # An overlay of this daemon's own mount namespace may be on it.
            root = entry / "root"
            if root.is_mount():
                mounts.unmount(root)
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


@dataclass(slots=True)
class _Step:
    failed: bool = False


@contextlib.contextmanager
def _noted(faults: list[str]) -> Iterator[_Step]:
    """Take one step of an end: what it raises is logged and added to `faults`, and the next one
    is taken."""
    step = _Step()
    try:
        yield step
    except Exception as error:
        step.failed = True
        log.exception("a step of the stop failed, the others are taken")
        faults.append(error.message if isinstance(error, StockadeError) else str(error))


def _lists_bpf() -> bool:
    """Say whether the kernel was booted with BPF among its security modules: that proves nothing,
    but without it there is no guard."""
    try:
        return "bpf" in Path("/sys/kernel/security/lsm").read_text().strip().split(",")
    except OSError:
        return False


@contextlib.contextmanager
def _usable(runtime: Path) -> Iterator[None]:
    """Name the runtime folder where the kernel refuses what is made in it; where there is only no
    more of something, that is another story."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise
        raise HostError(
            "RUNTIME_DIR_UNUSABLE",
            f"the runtime folder {runtime} cannot be used: {error}",
            hint="--runtime-dir names a folder in which root can make others, and mount",
        ) from error


def _require_own(folder: Path) -> None:
    """Refuse a place that somebody else could change under the daemon, which runs as root.

    Folders above may be shared where, like /tmp, they keep others from renaming what is ours.
    """
    for place in (folder.resolve(), *folder.resolve().parents):
        if not place.exists():
            continue  # nobody but root can make it, by what its parent shows
        status = place.stat()
        theirs = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid != os.getegid() else 0)
        sticky = place != folder.resolve() and status.st_mode & stat.S_ISVTX
        if status.st_uid != os.geteuid() or (status.st_mode & theirs and not sticky):
            raise HostError(
                "FOLDER_NOT_OURS",
                f"{place} belongs to uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}"
                f", so others could change what is in {folder}",
                hint=f"chown root {place} && chmod go-w {place}, or choose another folder",
            )


def _require_short(path: Path) -> None:
    """Refuse a place that is too deep for a socket."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise HostError(
            "RUNTIME_DIR_TOO_LONG",
            f"{path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a socket's path",
            hint="choose a --runtime-dir with a shorter path",
        )


def _require_passable(path: Path) -> None:
    """Refuse a place that a sandbox's own user could not reach.

    The runtime sets the root file system up as that user, who is nobody on the host.
    """
    for folder in path.resolve().parents:
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise HostError(
                "FOLDER_CLOSED",
                f"{folder} lets nobody pass through, so a sandbox cannot reach {path}",
                hint=f"choose another --runtime-dir, or chmod o+x {folder}",
            )


def instance_of(state: Path) -> str:
    """Give the name under which a state directory's sandboxes live on this host."""
    return hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:12]
