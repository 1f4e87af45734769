"""The probe of system calls: loaded when the daemon starts, attached only while a live call asks.

`sys_enter` runs for every system call of the whole host, so who does not ask must not pay. Loading
it takes far longer than attaching, and shows at once where a kernel refuses it. While attached, its
links are pinned: a daemon that is killed leaves the probe at work, and the next one takes it over,
reads what was counted, and only then lets it go.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.bpf import layout, pins
from supervisor.bpf.objects import ProbeObject
from supervisor.errors import HostError
from supervisor.profile.syscall_numbers import NUMBERS

log = logging.getLogger("stockade.fence")

OBJECT = "syscalls"
MAP = "watched"
PROGRAMS = ("watch_syscall", "watch_first_exec")
WORD_BITS = 64

FAMILY_OF_PLACE = {
    layout.PLACE_UNIX: 1,
    layout.PLACE_INET: 2,
    layout.PLACE_INET6: 10,
    layout.PLACE_NETLINK: 16,
}
"""The counters of socket(2), by family: place → family."""

NUMBER_SOCKET = NUMBERS["socket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is watched of one call, by number: what is told, and what kills besides."""

    watch: frozenset[int]
    kill: frozenset[int]

    def row(self, state: int) -> layout.WatchedRow:
        """Give its row in `watched`."""
        return layout.WatchedRow(watch=_words(self.watch), kill=_words(self.kill), state=state)


def number_of(place: int) -> int:
    """Give the number of the system call that a counter is for."""
    return NUMBER_SOCKET if place in FAMILY_OF_PLACE else place


def kills(row: layout.WatchedRow, number: int) -> bool:
    """Say whether a system call ends its process."""
    return bool(row.kill[number // WORD_BITS] >> number % WORD_BITS & 1)


def _words(numbers: Iterable[int]) -> ctypes.Array[ctypes.c_uint64]:
    words = (ctypes.c_uint64 * layout.SYSCALL_WORDS)()
    for number in numbers:
        words[number // WORD_BITS] |= 1 << number % WORD_BITS
    return words


class SyscallProbe:
    """The probe of one daemon and how many calls ask for it. `load` first."""

    def __init__(self, path: Path, links: Path) -> None:
        self._path = path
        self._folder = links
        self._object: ProbeObject | None = None
        self._links: list[pins.Link] = []
        self._users = 0
        self._lock = threading.Lock()

    def load(self, level: int, shared: Mapping[str, int]) -> int:
        """Hand it to the kernel, with the maps that are there already; give the descriptor of
        `watched`, which is the object's.

        Raises:
            HostError: `PROBE_UNLOADABLE`.
            OSError: as the kernel says.
        """
        probe = ProbeObject(self._path)
        try:
            probe.configure(level)
            probe.share(shared)
            probe.load()
        except BaseException:
            probe.close()
            raise
        self._object = probe
        return probe.map_fds()[MAP]

    def adopt(self) -> None:
        """Take over the links of a former daemon, where a call of its had asked.

        Raises:
            OSError: as the kernel says.
        """
        for name in PROGRAMS:
            if (self._folder / name).exists():
                self._links.append(pins.Link(self._folder / name))

    @property
    def attached(self) -> bool:
        """Say whether it is in place, whole."""
        return len(self._links) == len(PROGRAMS)

    async def ask(self) -> None:
        """Attach it, where nobody had asked before; `let_go` once for each that returned.

        Raises:
            HostError: `PROBE_UNATTACHABLE`, `WALL_NOT_STANDING`.
        """
        self._users += 1
        try:
            # Where the last one has just let go, the kernel first waits for whoever runs it.
            await asyncio.to_thread(self._attach)
        except BaseException:
            self.let_go()
            raise

    def _attach(self) -> None:
        with self._lock:
            # Nobody asks any more: who did was cancelled before this thread ran.
            if self._links or not self._users or self._object is None:
                return
            try:
                self._object.attach()
                self._object.pin(self._folder)
                self._links = [pins.Link(self._folder / name) for name in PROGRAMS]
            except OSError as error:
                self._unpin()
                raise HostError("WALL_NOT_STANDING", f"fence: {error}") from error
            finally:
                self._object.let_links_go()
        log.info("system calls are watched from now on")

    def let_go(self) -> None:
        """Ask no more; the last one detaches it."""
        self._users -= 1
        if not self._users:
            self.detach()

    def detach(self) -> None:
        """Take it out, unless a call asks."""
        with self._lock:
            if self._users or not self._links:
                return
            self._unpin()
        log.info("system calls are watched no more")

    def _unpin(self) -> None:
        links, self._links = self._links, []
        for name in PROGRAMS:
            (self._folder / name).unlink(missing_ok=True)
        for link in links:
            link.close()

    def faults(self) -> list[str]:
        """Say which of its links is no longer pinned though a call asks; at once."""
        with self._lock:
            return [
                f"fence: {link.name} is no longer pinned"
                for link in self._links
                if not link.pinned()
            ]

    def close(self) -> None:
        """Let go of everything; links that are pinned stay."""
        with self._lock:
            for link in self._links:
                link.close()
            self._links = []
            if self._object is not None:
                self._object.close()
                self._object = None
