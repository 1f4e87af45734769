"""What the probes tell of one call: read as it comes, complete at the end, gaps counted.

The kernel tells the first denial of a kind in the ring and counts the rest in a map; both are put
together here. An event without a place in the ring has been counted by its kind in the call's row,
and becomes what `Told.lost` says. So what is told and what is counted as lost is all there was.
Every watched system call is counted in the call's row of `watched`: none can be lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from supervisor.bpf import layout
from supervisor.bpf.decode import (
    HOOK_NAMES,
    ArgvRecord,
    DeniedRecord,
    ExecRecord,
    ExitRecord,
    Record,
    Refused,
    Tried,
    WatchedRecord,
    decode,
    refused,
    tried,
)
from supervisor.bpf.maps import BPF_EXIST
from supervisor.bpf.rings import Ring
from supervisor.bpf.syscalls import FAMILY_OF_PLACE, Asked, kills, number_of
from supervisor.errors import InvariantError

if TYPE_CHECKING:
    from supervisor.bpf.maps import BpfMap

log = logging.getLogger("stockade.fence")

FOLD_S = 1.0

GATHER_S = 0.01
"""What comes within this time of the first event is told with it: a program's start is some events
in a row, and each telling is an entry of the record. The ring holds a second's worth of a flood."""

LOST_NAMES = {
    layout.EVENT_DENIED: "denial",
    layout.EVENT_EXEC: "exec",
    layout.EVENT_ARGV: "argv",
    layout.EVENT_EXIT: "exit",
    layout.EVENT_WATCHED: "watched",
    layout.EVENT_REFUSED: "denial",
}
COUNTED_ELSEWHERE = frozenset({layout.EVENT_DENIED, layout.EVENT_WATCHED, layout.EVENT_REFUSED})
"""Kinds whose events are not lost where they find no place: they are told from their counters."""

Process = ExecRecord | ArgvRecord | ExitRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A kind of denial, `count` times since it was told last. `detail` is empty and pid 0 where
    it stands for several kinds of one hook."""

    refused: Refused
    pid: int
    program: bytes
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A watched system call, `count` times since it was told last. Of repeats there is no process,
    and of their arguments only a socket's family. `killed`: its process was sent SIGKILL."""

    number: int
    arguments: tuple[int, ...]
    pid: int
    program: bytes
    count: int
    killed: bool


@dataclass(slots=True)
class Told:
    """What a look at a call gave; `lost` counts events by their name in LOST_NAMES."""

    denials: list[Denial] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    watched: list[Made] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    read: int | None = None
    """Of a former daemon's call: how many more process events of it that daemon has read, by the
    kernel's own numbers; None where the call's program was not let go yet."""


class _Owner(Protocol):
    calls: BpfMap[ctypes.c_uint64, layout.CallRow]
    folded: BpfMap[layout.Kind, layout.Folded]
    watched: BpfMap[ctypes.c_uint64, layout.WatchedRow]
    begun: BpfMap[ctypes.c_uint64, ctypes.c_uint64]

    @property
    def watches_syscalls(self) -> bool: ...

    def forget(self, watch: Watch) -> None: ...


class Account:
    """What was told of one call so far, so that only what is new is told again. Pure."""

    def __init__(self) -> None:
        self.kinds: dict[bytes, int] = {}
        self._made: dict[int, int] = {}
        self._said: dict[bytes, Refused] = {}
        self._lost = [0] * layout.EVENT_KINDS
        self._rest = [0] * layout.HOOKS

    def take(self, records: Iterable[Record]) -> Told:
        """Take what a ring held."""
        told = Told()
        for record in records:
            if isinstance(record, DeniedRecord):
                self._said[record.key] = record.refused
                if record.key in self.kinds:
                    continue  # told from its counter, while its one event was in the ring
                self.kinds[record.key] = 1
                told.denials.append(
                    Denial(refused=record.refused, pid=record.pid, program=record.program, count=1)
                )
            elif isinstance(record, WatchedRecord):
                self._made[record.place] = 1
                told.watched.append(
                    Made(
                        number=record.number, arguments=record.arguments, pid=record.pid,
                        program=record.program, count=1, killed=record.killed,
                    )
                )  # fmt: skip
            else:
                told.processes.append(record)
        return told

    def made(self, row: layout.WatchedRow, *, every: bool) -> list[Made]:
        """Take a row of `watched`; give what is new in it: of `every` system call, or of those
        whose first event has been read. Only where no event can come any more is it of all."""
        new = []
        for place, count in enumerate(row.count):
            known = self._made.get(place)
            if count == (known or 0) or (known is None and not every):
                continue
            self._made[place] = count
            family = FAMILY_OF_PLACE.get(place)
            number = number_of(place)
            new.append(
                Made(
                    number=number, arguments=() if family is None else (family,), pid=0,
                    program=b"", count=count - (known or 0), killed=kills(row, number),
                )
            )  # fmt: skip
        return new

    def repeats(self, key: bytes, what: Refused, now: Tried) -> Denial | None:
        """Take a row of `folded`; give what is new in it."""
        known = self.kinds.get(key, 0)
        self.kinds[key] = now.count
        if now.count <= known:
            return None
        # The event knew more than the key: a path.
        what = self._said.get(key, what)
        return Denial(refused=what, pid=now.pid, program=now.program, count=now.count - known)

    def counters(self, row: layout.CallRow) -> Told:
        """Take the call's row; give what is new in its counters.

        A denial or a watched system call whose event found no place is counted all the same, and
        is told from there: it is not lost.
        """
        told = Told()
        for kind, name in LOST_NAMES.items():
            count = row.lost[kind] - self._lost[kind]
            self._lost[kind] = row.lost[kind]
            if count and kind not in COUNTED_ELSEWHERE:
                told.lost[name] = count
        for hook, name in HOOK_NAMES.items():
            count = row.rest[hook] - self._rest[hook]
            self._rest[hook] = row.rest[hook]
            if count:
                several = Refused(hook=hook, name=name, detail="")
                told.denials.append(Denial(refused=several, pid=0, program=b"", count=count))
        return told


class Watch:
    """The events of one live call; made by `Fence.watch`, over with `close`."""

    def __init__(
        self, fence: _Owner, cgroup_id: int, ring: Ring, asked: Asked | None = None
    ) -> None:
        self.cgroup_id = cgroup_id
        self.ring = ring
        self.asked = asked
        self._fence = fence
        self._account = Account()
        self._taken = 0
        self._tell: Callable[[Told], None] | None = None
        self._fail: Callable[[Exception], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._gathering: asyncio.Handle | None = None
        self._closed = False

    def standing(self) -> bool:
        """Say whether the call's rows are there, and the probe that it asks for."""
        asked = self.asked is None or (
            self._fence.watches_syscalls and self._watched_row() is not None
        )
        return asked and self._row() is not None

    def begin(self, *, at_once: bool = False, kept: int = 0) -> None:
        """Say that the call's own account begins: of the process events so far `kept` belong to it,
        which the next daemon must know to see whether it has all.

        From here on the system calls that were asked for are watched: from the next program on that
        is started, or at once.

        Raises:
            OSError: as the kernel says.
        """
        key = ctypes.c_uint64(self.cgroup_id)
        self._fence.begun.put(key, ctypes.c_uint64(self._taken - kept))
        if self.asked is not None:
            row = self.asked.row(layout.WATCHING if at_once else layout.WATCHING_FROM_EXEC)
            self._fence.watched.put(key, row, BPF_EXIST)

    def tell(self, tell: Callable[[Told], None], fail: Callable[[Exception], None]) -> None:
        """Tell everything from here on, as it comes; `fail` is told where that went wrong."""
        self._tell, self._fail = tell, fail
        # From now on, and not from the first event on: a kind that the canary was told of makes no
        # event when it comes again, and neither does what finds no place in the ring.
        self._timer = self._loop.call_later(FOLD_S, self._fold)
        self._loop.add_reader(self.ring.epoll_fd, self._readable)

    def _row(self) -> layout.CallRow | None:
        return self._fence.calls.get(ctypes.c_uint64(self.cgroup_id))

    def _watched_row(self) -> layout.WatchedRow | None:
        return self._fence.watched.get(ctypes.c_uint64(self.cgroup_id))

    def take(self) -> Told | None:
        """Take a batch out of the ring; None where there is nothing."""
        raw = self.ring.read()
        if not raw:
            return None
        told = self._account.take(self._records(raw))
        self._taken += len(told.processes)
        return told

    def _records(self, raw: Sequence[bytes]) -> list[Record]:
        # A program that was running when a former call of this ring ended may still have told.
        return [record for data in raw if (record := decode(data)).call == self.cgroup_id]

    def _readable(self) -> None:
        self._loop.remove_reader(self.ring.epoll_fd)
        self._gathering = self._loop.call_later(GATHER_S, self._read)

    def _read(self) -> None:
        """Tell a batch; the next one when the loop has had its turn, until there is none."""
        self._gathering = None
        try:
            told = self.take()
            if told is None:
                self._loop.add_reader(self.ring.epoll_fd, self._readable)
                return
            self._gathering = self._loop.call_soon(self._read)
            self._say(told)
        except Exception as error:  # noqa: BLE001 (the loop would log it, and the call go on)
            self._give_up(error)

    def _fold(self) -> None:
        try:
            self._timer = self._loop.call_later(FOLD_S, self._fold)
            self._say(self.sweep())
        except Exception as error:  # noqa: BLE001 (as above)
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Read no more of a call whose events cannot be told whole."""
        self._stop_reading()
        if self._fail is not None:
            self._fail(error)

    def _say(self, told: Told) -> None:
        said = told.denials or told.processes or told.watched or told.lost
        if self._tell is not None and said:
            self._tell(told)

    def sweep(self, *, all_kinds: bool = False) -> Told:
        """Look at what the kernel has counted meanwhile."""
        row = self._row()
        told = self._account.counters(row) if row is not None else Told()
        untold = row is not None and any(row.lost[kind] for kind in COUNTED_ELSEWHERE)
        for raw in self._keys(every=all_kinds or untold):
            key = layout.Kind.from_buffer_copy(raw)
            value = self._fence.folded.get(key)
            if value is None:
                continue
            denial = self._account.repeats(raw, refused(key), tried(value))
            if denial is not None:
                told.denials.append(denial)
        watched = self._watched_row() if self.asked is not None else None
        if watched is not None:
            told.watched += self._account.made(watched, every=all_kinds)
        return told

    def _keys(self, *, every: bool) -> list[bytes]:
        row = self._row()
        known = len(self._account.kinds)
        if every and row is not None and row.kinds + row.guard_kinds > known:
            # The first of a kind found no place in the ring: only the map knows it.
            return [bytes(k) for k in self._fence.folded.all_keys() if k.call == self.cgroup_id]
        return list(self._account.kinds)

    def finish(self) -> None:
        """Tell what is left, when every process of the call is dead."""
        self._stop_reading()
        while (told := self.take()) is not None:
            self._say(told)
        self._say(self.sweep(all_kinds=True))

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self.ring.epoll_fd)
        for handle in (self._timer, self._gathering):
            if handle is not None:
                handle.cancel()
        self._timer = self._gathering = None

    def close(self) -> None:
        """Take the call's rows out, and hand its ring on. More than once does no harm."""
        if self._closed:
            return
        self._closed = True
        self._stop_reading()
        for raw in self._keys(every=True):
            self._fence.folded.delete(layout.Kind.from_buffer_copy(raw))
        while self.ring.read():
            continue
        self._fence.watched.delete(ctypes.c_uint64(self.cgroup_id))
        self._fence.forget(self)


def leftovers(
    rings: Iterable[Ring],
    calls: BpfMap[ctypes.c_uint64, layout.CallRow],
    folded: BpfMap[layout.Kind, layout.Folded],
    watched: BpfMap[ctypes.c_uint64, layout.WatchedRow],
    begun: BpfMap[ctypes.c_uint64, ctypes.c_uint64],
) -> dict[int, Told]:
    """Read what calls of a former daemon left, by cgroup id, and remove it.

    An event that cannot be decoded is missing like one that was read and not recorded.
    """
    accounts: dict[int, Account] = {key.value: Account() for key in calls.all_keys()}
    found: dict[int, Told] = {number: Told() for number in accounts}
    for ring in rings:
        while raw := ring.read():
            for record in _decoded(raw):
                if record.call in accounts:
                    _add(found[record.call], accounts[record.call].take([record]))
    for key in list(folded.all_keys()):
        value = folded.get(key)
        folded.delete(key)
        if value is not None and key.call in accounts:
            denial = accounts[key.call].repeats(bytes(key), refused(key), tried(value))
            if denial is not None:
                found[key.call].denials.append(denial)
    for number, account in accounts.items():
        row = calls.get(ctypes.c_uint64(number))
        made = watched.get(ctypes.c_uint64(number))
        before = begun.get(ctypes.c_uint64(number))
        if row is not None:
            _add(found[number], account.counters(row))
            if before is not None:
                there = len(found[number].processes)
                found[number].read = _told(row, made) - before.value - there
        if made is not None:
            found[number].watched += account.made(made, every=True)
        watched.delete(ctypes.c_uint64(number))
        calls.delete(ctypes.c_uint64(number))
    for begun_key in list(begun.all_keys()):
        begun.delete(begun_key)
    return found


def _decoded(raw: Iterable[bytes]) -> Iterator[Record]:
    for data in raw:
        try:
            yield decode(data)
        except InvariantError as error:
            log.error("an event of a former daemon is left out: %s", error)


def _told(row: layout.CallRow, made: layout.WatchedRow | None) -> int:
    """Say how many process events found a place in the ring: of the numbers that were taken, each
    first denial of a kind has one, and each first watched system call of a place."""
    firsts = row.kinds + row.guard_kinds
    firsts += sum(count > 0 for count in made.count) if made is not None else 0
    lost = sum(row.lost[kind] for kind in LOST_NAMES if kind not in COUNTED_ELSEWHERE)
    return int(row.sequence - firsts - lost)


def _add(to: Told, more: Told) -> None:
    to.denials += more.denials
    to.processes += more.processes
    to.watched += more.watched
    for name, count in more.lost.items():
        to.lost[name] = to.lost.get(name, 0) + count
