"""The fence of one daemon: its probes, attached to the cgroup above all its sandboxes.

The links and maps are pinned in a folder of their own version. A daemon that finds its version
there takes it over, with the events that are queued; any other is replaced: the new set is
attached and pinned before the old one goes, so nothing is without a fence in between.

Per call: a row in `calls` and a ring, both before the sandbox exists; `Watch` reads the ring. A row
in `live`, for guests. Where a profile asks for its system calls: a row in `watched`, and the probe
of `syscalls`. Where a profile allows to connect somewhere: what `supervisor.bpf.doors` writes.

The guard is an optional part of it (`supervisor.bpf.guard`): where the kernel has no BPF LSM, the
fence stands without.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.bpf import layout, pins
from supervisor.bpf.decode import HOOK_NAMES
from supervisor.bpf.doors import MAPS as DOOR_MAPS
from supervisor.bpf.doors import Door, Doors
from supervisor.bpf.guard import GUARD, GUARD_MAPS, Guard, GuardState
from supervisor.bpf.guests import ID_BYTES, VALUE_BYTES, LiveCalls, is_guests, remove_ended
from supervisor.bpf.libbpf import library
from supervisor.bpf.maps import BPF_NOEXIST, BpfMap, make_hash, make_ring
from supervisor.bpf.objects import ProbeObject
from supervisor.bpf.rings import Ring, RingPool
from supervisor.bpf.syscalls import MAP, OBJECT, Asked, SyscallProbe
from supervisor.bpf.watch import Told, Watch, leftovers
from supervisor.errors import HostError

log = logging.getLogger("stockade.fence")

OBJECTS = ("egress", "process")
SHARED = ("calls", "rings", "folded", "strays")
CGROUP_PROGRAMS = (
    "fence_connect4", "fence_connect6", "fence_sendmsg4", "fence_sendmsg6", "fence_bind4",
    "fence_bind6", "fence_socket", "fence_multicast", "fence_egress", "fence_ingress",
    "fence_peer4", "fence_peer6", "fence_flows",
)  # fmt: skip
BEGUN = "begun"
"""The daemon's own map: how many process events came before a call's account begins."""

GAP = "gap-"
READ = "FENCE_READ"
OTHER_PROGRAMS = ("watch_exec", "watch_exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class FencePlaces:
    """Where the objects lie, where pins go (a bpf file system), and what is fenced.

    `level` is how deep a call's cgroup lies below the root of the unified tree; `canary` is the
    program that tries the guard.
    """

    objects: Path
    pins: Path
    cgroup: Path
    level: int
    canary: Path

    def version(self) -> str:
        """Give the name of this set of probes: of its layout, objects and level."""
        hasher = hashlib.sha256(f"{layout.ABI_VERSION} {self.level}".encode())
        for name in (*OBJECTS, OBJECT, GUARD):
            hasher.update(self._read(name))
        return f"v{layout.ABI_VERSION}-{hasher.hexdigest()[:12]}"

    def object(self, name: str) -> Path:
        """Give the path of an object."""
        return self.objects / f"{name}.bpf.o"

    def _read(self, name: str) -> bytes:
        try:
            return self.object(name).read_bytes()
        except FileNotFoundError as error:
            raise HostError(
                "PROBES_MISSING", f"{self.object(name)}: the probes are not built",
                hint="make setup",
            ) from error  # fmt: skip


class Fence:
    """The probes in place. `open` first; `close` at an orderly end only."""

    def __init__(self, places: FencePlaces) -> None:
        self._places = places
        self._version = places.version()
        self._folder = places.pins / self._version
        self._links: list[pins.Link] = []
        self._syscalls = SyscallProbe(places.object(OBJECT), self._folder / "links")
        self._cgroup_id = 0
        self._guard = Guard(places.object(GUARD), self._folder, places.level)
        self._growing = asyncio.Lock()
        self.adopted = False
        self.gap = ""
        """Why nobody can say what the probes had to tell of a former daemon's calls: FENCE_GONE,
        as after a new start of the machine; FENCE_REPLACED: they were of another version, or not
        whole; FENCE_READ: a daemon had read them, and died before all was on record. Empty where it
        was taken over."""

    def open(self) -> None:
        """Put the probes in place, or take over those of a former daemon. Blocks.

        Raises:
            HostError: `PROBE_UNLOADABLE`, `PROBE_UNATTACHABLE`, `PROBES_MISSING`,
                `LIBBPF_MISSING`, `LIBBPF_TOO_OLD`, `FENCE_UNPINNABLE`.
        """
        library()
        self._cgroup_id = self._places.cgroup.stat().st_ino
        try:
            self.adopted = self._take_over()
            if self.adopted:
                log.info("took over the probes of the former daemon")
            else:
                self._install("FENCE_REPLACED" if any(self._versions()) else "FENCE_GONE")
                self._open_maps()
            self._open_pool()
            self._guard.open(self._shared_fds(), [link.fd for link in self._links])
            self._try_guard()
            self.gap = next(self._gaps(), Path()).name.removeprefix(GAP)
            self.live = LiveCalls(self._places.pins)
            self._forget_others()
        except OSError as error:
            raise HostError(
                "FENCE_UNPINNABLE", f"{self._folder}: {error}", hint="stockade doctor"
            ) from error

    def _take_over(self) -> bool:
        """Open the pins of this version; say whether all of them are there and attached to us."""
        if not self._folder.is_dir():
            return False
        try:
            self._open_links()
            whole = not any(self._link_faults())
            if whole:
                self._open_maps()
                self._syscalls.load(self._places.level, self._shared_fds())
                self._syscalls.adopt()
        except FileNotFoundError:
            whole = False
        if not whole:
            log.warning("the probes of the former daemon are not whole: they are replaced")
            self._close_links()
        return whole

    def _install(self, gap: str) -> None:
        # A bpf file system takes no name with a dot in it.
        fresh = self._places.pins / f"{self._version}-new"
        pins.remove_tree(fresh)
        (fresh / "links").mkdir(parents=True)
        (fresh / "maps").mkdir()
        cgroup_fd = os.open(self._places.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        objects: list[ProbeObject] = []
        begun_fd = -1
        try:
            begun_fd = make_hash(BEGUN, ID_BYTES, VALUE_BYTES, layout.CALLS_MAX, 0)
            shared: dict[str, int] = {}
            kept = (*SHARED, *DOOR_MAPS)
            for name in OBJECTS:
                probe = ProbeObject(self._places.object(name))
                objects.append(probe)
                probe.configure(self._places.level)
                probe.share(shared)
                probe.load()
                shared = shared or {n: fd for n, fd in probe.map_fds().items() if n in kept}
            shared[MAP] = self._syscalls.load(self._places.level, shared)
            shared[BEGUN] = begun_fd
            for name, fd in shared.items():
                pins.pin_map(fd, fresh / "maps" / name)
            for probe in objects:
                probe.attach(cgroup_fd)
                probe.pin(fresh / "links")
        finally:
            for probe in reversed(objects):
                probe.close()
            os.close(cgroup_fd)
            if begun_fd >= 0:
                os.close(begun_fd)
        # From here on the next daemon takes over what is ours: it must know of the gap, too.
        (self._places.pins / f"{GAP}{gap}").mkdir(exist_ok=True)
        # What was not whole may still fence something: it goes when the new set is in its place.
        if self._folder.is_dir():
            broken = self._places.pins / f"{self._version}-old"
            pins.remove_tree(broken)
            self._folder.rename(broken)
        fresh.rename(self._folder)
        self._open_links()

    def _open_links(self) -> None:
        for name in (*CGROUP_PROGRAMS, *OTHER_PROGRAMS):
            self._links.append(pins.Link(self._folder / "links" / name))

    def _close_links(self) -> None:
        for link in self._links:
            link.close()
        self._links = []

    def _open_maps(self) -> None:
        fds: dict[str, int] = {}
        with contextlib.ExitStack() as opened:
            for name in (*SHARED, MAP, BEGUN):
                fds[name] = pins.open_map(self._folder / "maps" / name)
                opened.callback(os.close, fds[name])
            self._doors = Doors(self._folder / "maps")
            opened.pop_all()
        self.calls = BpfMap(fds["calls"], ctypes.c_uint64, layout.CallRow, "calls")
        self.folded = BpfMap(fds["folded"], layout.Kind, layout.Folded, "folded")
        self.watched = BpfMap(fds[MAP], ctypes.c_uint64, layout.WatchedRow, MAP)
        self.begun = BpfMap(fds[BEGUN], ctypes.c_uint64, ctypes.c_uint64, BEGUN)
        self._strays = BpfMap(fds["strays"], ctypes.c_uint32, ctypes.c_uint64, "strays")
        self._rings = BpfMap(fds["rings"], ctypes.c_uint32, ctypes.c_uint32, "rings")
        self._maps = (
            self.calls, self.folded, self.watched, self.begun, self._strays, self._rings,
            *self._doors.maps,
        )  # fmt: skip

    def _shared_fds(self) -> dict[str, int]:
        return {one.name: one.fd for one in self._maps}

    def _open_pool(self) -> None:
        self._pool = RingPool(self._rings)
        if self.adopted:
            self._pool.adopt()
        if self._pool.must_grow:
            self._pool.grow()  # the first call does not wait for it

    def _try_guard(self) -> None:
        if not self._guard.state.standing:
            return
        self._guard.own_rings(self._pool.ids)
        # Those of the pool may hold what a former daemon's calls had to tell.
        place = ctypes.c_uint32(layout.TRIAL_RING)
        ring = Ring(layout.TRIAL_RING, make_ring(layout.RING_BYTES))
        try:
            self._rings.put(place, ctypes.c_uint32(ring.fd))
            self._guard.try_it(self._places.cgroup, self._places.canary, self.calls, ring)
        finally:
            for key in list(self.folded.all_keys()):
                if key.call == self._guard.trial_id:
                    self.folded.delete(key)
            self._rings.delete(place)
            ring.close()

    def _forget_others(self) -> None:
        for entry in list(self._versions()):
            if entry != self._folder:
                ours = entry.name.startswith(f"{self._version}-")
                which = "what was not whole" if ours else "the probes of another version"
                log.info("removed %s: %s", which, entry.name)
                pins.remove_tree(entry)
        remove_ended(self._places.pins)

    def _versions(self) -> Iterator[Path]:
        """Give the folders of probes, of any version."""
        for entry in self._places.pins.iterdir():
            # The kernel's own files in it have a dot in their names, as no pin can.
            own = is_guests(entry.name) or entry.name.startswith(GAP)
            if "." not in entry.name and not own:
                yield entry

    def _gaps(self) -> Iterator[Path]:
        yield from sorted(self._places.pins.glob(f"{GAP}*"), reverse=True)

    def close_gap(self) -> None:
        """Say that each call of a former daemon has the `gap` on record.

        Raises:
            OSError: as the kernel says.
        """
        for mark in list(self._gaps()):
            mark.rmdir()
        self.gap = ""

    def mark_reading(self) -> None:
        """Leave word for the next daemon that what the calls of a former one left is about to be
        read, which can be done once: until `close_gap` it is nowhere but in this process.

        Raises:
            OSError: as the kernel says.
        """
        if any(True for _ in self.calls.all_keys()):
            (self._places.pins / f"{GAP}{READ}").mkdir(exist_ok=True)

    def leftovers(self) -> dict[int, Told]:
        """Give what the calls of a former daemon left in rings and counters, by cgroup id, and
        forget it; their processes must be dead."""
        self._guard.disarm_all()
        left = leftovers(self._pool.all_free(), self.calls, self.folded, self.watched, self.begun)
        self._doors.clear()
        self._syscalls.detach()
        self.live.clear()
        return left

    async def watch(self, cgroup_id: int, asked: Asked | None = None) -> Watch:
        """Let a call in: from here on its processes are told apart from strangers. `asked` is
        which of its system calls are watched, once it is told to begin.

        Raises:
            CapacityError: `RINGS_EXHAUSTED`.
            HostError: `WALL_NOT_STANDING`: the row cannot be written; `PROBE_UNATTACHABLE`.
        """
        watch = await self._let_in(cgroup_id, asked)
        if asked is not None:
            try:
                await self._syscalls.ask()
            except BaseException:
                watch.asked = None
                watch.close()
                raise
            try:
                self.watched.put(
                    ctypes.c_uint64(cgroup_id), asked.row(layout.WATCHING_NOT), BPF_NOEXIST
                )
            except OSError as error:
                watch.close()
                raise HostError("WALL_NOT_STANDING", f"fence: {error}") from error
        return watch

    async def _let_in(self, cgroup_id: int, asked: Asked | None) -> Watch:
        async with self._growing:
            if self._pool.must_grow:
                await asyncio.to_thread(self._grow)
            ring = self._pool.take()
        row = layout.CallRow(ring=ring.place)
        try:
            self.calls.put(ctypes.c_uint64(cgroup_id), row, BPF_NOEXIST)
        except OSError as error:
            self._pool.give_back(ring)
            raise HostError("WALL_NOT_STANDING", f"fence: {error}") from error
        self.live.add(cgroup_id)
        return Watch(self, cgroup_id, ring, asked)

    def _grow(self) -> None:
        self._pool.grow()
        self._guard.own_rings(self._pool.ids[-1:])

    def arm(self, cgroup_id: int, mounts: Sequence[tuple[int, bool]]) -> bool:
        """Guard a call from here on, now that its sandbox is whole; say whether there is a guard.

        `mounts` are its writable mounts: the device of each, and whether programs run from it.

        Raises:
            HostError: `WALL_NOT_STANDING`: its row is not what was written.
        """
        return self._guard.arm(cgroup_id, mounts)

    def open_door(self, cgroup_id: int, door: Door) -> None:
        """Let a call connect to places from here on, after `watch`; once, and until `forget`.

        Raises:
            CapacityError: `FLOWS_EXHAUSTED`.
            HostError: `WALL_NOT_STANDING`: a row cannot be written, or is there already.
        """
        self._doors.open(cgroup_id, door)

    def door_stands(self, cgroup_id: int, door: Door) -> bool:
        """Say whether every row of a call's door is as it was written.

        Raises:
            OSError: as the kernel says.
        """
        return self._doors.stands(cgroup_id, door)

    def flows(self, cgroup_id: int) -> int:
        """Give how many connections a call has through its door now, 0 where it has none."""
        return self._doors.flows(cgroup_id)

    def origins_fd(self) -> int:
        """Give a descriptor of `origins` through which nothing can be written; the fence closes
        it. Key and value are `layout.OriginKey` and `layout.Origin`."""
        return self._doors.origins_fd

    def forget(self, watch: Watch) -> None:
        """Let a call go: whoever is still in its cgroup belongs to no call any more."""
        self.calls.delete(ctypes.c_uint64(watch.cgroup_id))
        self._doors.close_door(watch.cgroup_id)
        self.begun.delete(ctypes.c_uint64(watch.cgroup_id))
        self.live.remove(watch.cgroup_id)
        self._guard.disarm(watch.cgroup_id)
        self._pool.give_back(watch.ring)
        if watch.asked is not None:
            self._syscalls.let_go()

    @property
    def watches_syscalls(self) -> bool:
        """Say whether the probe of system calls is attached."""
        return self._syscalls.attached

    def faults(self) -> list[str]:
        """Say what is not as it was put in place; empty where every probe stands.

        Blocks: asking about a cgroup's link waits for the kernel's one lock on cgroups, which
        runtimes hold for long.
        """
        try:
            return [*self._link_faults(), *self._map_faults(), *self._syscalls.faults()]
        except OSError as error:
            return [f"fence: {error}"]

    def pin_faults(self) -> list[str]:
        """Say which probe or map is no longer pinned; at once."""
        links = (*self._links, *self._guard.links)
        gone = [link.name for link in links if not link.pinned()]
        return [
            *(f"fence: {name} is no longer pinned" for name in gone),
            *self._map_faults(),
            *self._syscalls.faults(),
        ]

    def _map_faults(self) -> Iterator[str]:
        """Name maps whose pin is gone: the next daemon could not take the probes over, or would
        lose what they count; a tool would not find the live calls."""
        guarded = GUARD_MAPS if self._guard.links else ()
        maps = [
            self._folder / "maps" / name for name in (*SHARED, *DOOR_MAPS, MAP, BEGUN, *guarded)
        ]
        for path in (*maps, self.live.path):
            if not path.exists():
                yield f"fence: the map {path.name} is no longer pinned"

    def _link_faults(self) -> Iterator[str]:
        for link in (*self._links, *self._guard.links):
            if not link.pinned():
                yield f"fence: {link.name} is no longer pinned"
            if link.name in CGROUP_PROGRAMS and link.cgroup() != self._cgroup_id:
                yield f"fence: {link.name} is detached"

    @property
    def guard(self) -> GuardState:
        """Say whether the guard stood when the fence was opened."""
        return self._guard.state

    def strays(self) -> dict[str, int]:
        """Count denials of processes that belong to no live call, by hook."""
        counts: dict[str, int] = {}
        for hook, name in HOOK_NAMES.items():
            value = self._strays.get(ctypes.c_uint32(hook))
            counts[name] = counts.get(name, 0) + (value.value if value is not None else 0)
        return counts

    def close(self) -> None:
        """Take the probes out; every sandbox must be gone."""
        self._pool.close()
        self.live.close()
        self._doors.close()
        for one in self._maps:
            one.close()
        self._close_links()
        self._guard.close()
        self._syscalls.close()
        pins.remove_tree(self._folder)
