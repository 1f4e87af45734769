"""One call behind the fence: let in before its sandbox exists, tried, and told to the end.

Where the host has a guard, the call is guarded from the moment that its sandbox is whole.

The canary is the proof that both stand around this very cgroup and that their events arrive: a
process right inside of it tries to leave, and what the guard denies, is denied, and the ring says
so. Only then is the program let go.
"""

from __future__ import annotations

import asyncio
import collections
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from supervisor.bpf import layout
from supervisor.bpf.decode import ArgvRecord, ExecRecord
from supervisor.bpf.fence import Fence
from supervisor.bpf.guard import GUARDED, TRIED, canary_fault, untold
from supervisor.bpf.syscalls import Asked
from supervisor.bpf.watch import FOLD_S, Denial, Made, Process, Told, Watch
from supervisor.call.events import (
    CELL_PATH,
    PROBE_EVENTS,
    Denied,
    Flow,
    Lost,
    MoreArgv,
    Processes,
    ProcessEvent,
    Wall,
    Watched,
)
from supervisor.errors import HostError
from supervisor.linux import process
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.schema import ENFORCE, OBSERVE
from supervisor.profile.syscall_arguments import real_arguments
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.sandbox.arguments import describe, family
from supervisor.sandbox.batches import Budget, batches
from supervisor.sandbox.denials import NAMES
from supervisor.sandbox.door import unnamed

PROGRAMS_RULE = "programs: from the read-only image only"

CANARY_S = 10.0
CANARY_PLACES = frozenset({"169.254.169.254:9 udp", "[fd00:ec2::254]:9 udp"})
CANARY_FAULTS = {
    1: "a canary could connect out of the call's cgroup",
    2: "a canary could not be tried in the call's cgroup",
}

RULE = "egress: nothing is allowed"
MIXED = "places differ"

GUARD_RULES: Mapping[int, tuple[Wall, str]] = {
    layout.HOOK_EXEC: (Wall.PROGRAM, PROGRAMS_RULE),
    layout.HOOK_MMAP: (Wall.PROGRAM, PROGRAMS_RULE),
    layout.HOOK_MPROTECT: (Wall.PROGRAM, PROGRAMS_RULE),
    layout.HOOK_MOUNT: (Wall.KERNEL, "mounts: none is made or changed"),
    layout.HOOK_PTRACE: (Wall.KERNEL, "processes: those of the call only"),
    layout.HOOK_BPF: (Wall.KERNEL, "bpf: never"),
    layout.HOOK_USERNS: (Wall.KERNEL, "identity: no user namespace"),
}
"""Which wall it is that a hook of the guard holds, and what the rule says."""

PROBED = frozenset({Wall.NETWORK, Wall.PROGRAM, Wall.KERNEL})
"""The walls whose denials the probes count."""
LOST_REASON = "RING_FULL"
PROCESS_KINDS = frozenset({"exec", "argv", "exit"})

SOCKET = "socket"

Event = Denied | Processes | Watched | Flow | Lost


def asked_of(policy: SyscallPolicy) -> Asked | None:
    """Give what is watched of a call; None where its profile does not ask. What kills is asked for
    besides: a second wall, where the probe is there anyway."""
    if not policy.watch:
        return None
    watch, kill = (frozenset(NUMBERS[n] for n in names) for names in (policy.watch, policy.kill))
    return Asked(watch=watch, kill=kill)


class CallFence:
    """The fence's side of one sandbox."""

    def __init__(
        self,
        fence: Fence,
        cgroup: Path,
        watch: Watch,
        uid_base: int,
        mode: str = ENFORCE,
        *,
        gated: bool = False,
        named: Callable[[Denied], Denied] | None = None,
    ) -> None:
        """Take a call's watch; `gated` says that cell is there already, and waits at its gate;
        `named` says more of a denial, where the call has a door."""
        self._fence = fence
        self._cgroup = cgroup
        self._watch = watch
        self._uid_base = uid_base
        self._mode = mode
        self._gated = gated
        self._named = named
        self._guarded = False
        self._before: list[Process] = []
        self._budget = Budget()
        self._tell: Callable[[Sequence[Event]], None] | None = None
        self._fold: asyncio.TimerHandle | None = None

    def guard(self, mounts: Sequence[tuple[int, bool]]) -> None:
        """Guard the call from here on, where the host has a guard: see `Fence.arm`.

        Raises:
            HostError: `WALL_NOT_STANDING`.
        """
        self._guarded = self._fence.arm(self._watch.cgroup_id, mounts)

    async def try_canary(self, program: Path) -> None:
        """See that nothing gets out of the call's cgroup, and that trying is told. What is watched
        of the call is watched afterwards: from cell on, or from what cell does at its gate on.

        Raises:
            HostError: `WALL_NOT_STANDING`.
        """
        try:
            faults = self._fence.pin_faults()
            if not self._watch.standing():
                faults.append("fence: the call has no row, or nothing watches for it")
            if not faults:
                faults = [f"fence: {fault}" for fault in await self._canary(program)]
            if not faults:
                self._watch.begin(at_once=self._gated, kept=len(self._before))
        except OSError as error:
            # What cannot be looked at does not stand.
            faults = [f"fence: {error}"]
        if faults:
            raise HostError(
                "WALL_NOT_STANDING",
                "; ".join(faults),
                hint="stockade doctor tells which wall this host cannot raise",
            )

    async def _canary(self, program: Path) -> list[str]:
        argv = [os.fspath(program), os.fspath(self._cgroup), *([GUARDED] * self._guarded)]
        pid = process.spawn(argv, fds={})
        pidfd = os.pidfd_open(pid)
        try:
            async with asyncio.timeout(CANARY_S):
                code = await process.wait(pidfd)
        except TimeoutError:
            process.send_signal(pidfd, 9)
            process.disown(pid)
            return ["a canary did not come back"]
        finally:
            os.close(pidfd)
        if code:
            fault = CANARY_FAULTS.get(code) or canary_fault(code)
            return [fault or f"a canary ended with {code}"]
        # Nothing of the call has run yet: what is told is the canary's, and with a runtime that
        # lets its init become cell before this, that start.
        told: list[Denial] = []
        while batch := self._watch.take():
            told += batch.denials
            self._before += _of_cell(batch.processes)
        missing = sorted(CANARY_PLACES - {denial.refused.detail for denial in told})
        if self._guarded:
            missing += untold([denial.refused.name for denial in told])
        return [f"denied, but not told: {one}" for one in missing]

    def tell(
        self, tell: Callable[[Sequence[Event]], None], fail: Callable[[Exception], None]
    ) -> None:
        """Tell what happens from here on; `fail` is told where that went wrong."""

        def take(told: Told) -> None:
            told.processes += self._before
            self._before = []
            tell(
                [
                    self._named(event) if isinstance(event, Denied) and self._named else event
                    for event in events_of(told, self._uid_base, self._mode, self._budget)
                ]
            )
            if self._budget.over and self._fold is None:
                self._fold = asyncio.get_running_loop().call_later(FOLD_S, fold)

        def fold() -> None:
            try:
                self._tell_over()
            except Exception as error:  # noqa: BLE001 (the loop would log it, and the call go on)
                fail(error)

        self._tell = tell
        self._watch.tell(take, fail)

    def _tell_over(self) -> None:
        """Tell how much the budget had no room for, since it was told last."""
        self._stop_folding()
        lost = list(self._budget.lost())
        if self._tell is not None:
            self._tell(lost)

    def _stop_folding(self) -> None:
        if self._fold is not None:
            self._fold.cancel()
            self._fold = None

    def finish(self) -> None:
        """Tell what is left; every process of the call is dead."""
        self._watch.finish()
        self._tell_over()

    def close(self) -> None:
        """Let the call go."""
        self._stop_folding()
        self._watch.close()


def _of_cell(records: Iterable[Process]) -> Iterator[Process]:
    """Give what tells of the start of cell; a runtime's own programs are not the call's."""
    pids = set()
    for record in records:
        if isinstance(record, ExecRecord) and record.path == CELL_PATH.encode():
            pids.add(record.pid)
            yield record
        elif isinstance(record, ArgvRecord) and record.pid in pids:
            yield record


def events_of(
    told: Told, uid_base: int, mode: str = ENFORCE, budget: Budget | None = None
) -> Iterator[Event]:
    """Give what was told as events of a call under a profile of that `mode`; what its `budget` has
    no room for is counted there."""
    offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for batch, size in batches(told.processes, uid_base, offset_ns):
        if budget is None or budget.takes(batch, size):
            yield batch
    for denial in told.denials:
        yield _denied(denial)
    for made in told.watched:
        yield _watched(made, mode)
    for what, count in told.lost.items():
        yield Lost(what=what, count=count, reason=LOST_REASON)


def not_recorded(left: Told, recorded: Iterable[object]) -> Told:
    """Give what the kernel counted of a former daemon's call without what is on record already, and
    without the canary: the kernel cannot know how much of its counts had been told."""
    known: collections.Counter[tuple[str, ...]] = collections.Counter()
    for name, count in TRIED.items():
        known[GUARDED, name] = count
    for event in recorded:
        if isinstance(event, Denied) and event.wall in PROBED:
            known[_place(event.wall, event.name, unnamed(event.detail))] += event.count
        elif isinstance(event, Watched):
            known[_kind(event)] += event.count
        elif isinstance(event, Lost) and event.reason == LOST_REASON:
            known[event.what,] += event.count
    rest = Told(processes=left.processes)
    for denial in left.denials:
        refused = denial.refused
        wall, _ = GUARD_RULES.get(refused.hook, (Wall.NETWORK, ""))
        place = _place(wall, refused.name, refused.detail or MIXED)
        before = known[place] + (refused.detail in CANARY_PLACES)
        taken = min(denial.count, before)
        known[place] = max(0, known[place] - taken)
        if denial.count > taken:
            rest.denials.append(replace(denial, count=denial.count - taken))
    for made in left.watched:
        kind = _kind(_watched(made, ENFORCE))
        taken = min(made.count, known[kind])
        known[kind] -= taken
        if made.count > taken:
            rest.watched.append(replace(made, count=made.count - taken))
    for what, count in left.lost.items():
        if count > known[what,]:
            rest.lost[what] = count - known[what,]
    return rest


def missing_of(left: Told, recorded: Iterable[object]) -> Iterator[Lost]:
    """Give what a former daemon had read of a call and died before it could record it. The kernel's
    numbers must come out even: where they do not otherwise, nobody knows what is missing."""
    if left.read is None:
        return
    known = 0
    last: ProcessEvent | None = None
    for event in recorded:
        if isinstance(event, Processes):
            for one in event.events:
                known += _of_kernel(one) and not _goes_on(one, last)
                last = one
        elif (
            isinstance(event, Lost) and event.reason != LOST_REASON and event.what in PROCESS_KINDS
        ):
            known += event.count
    if left.read != known:
        yield Lost(what=PROBE_EVENTS, count=max(0, left.read - known), reason="DAEMON_DIED")


def _of_kernel(event: ProcessEvent) -> bool:
    """Say whether it is an event of the kernel's; it tells no argv that it had room for before."""
    return not (isinstance(event, MoreArgv) and event.offset < layout.ARGV_BYTES)


def _goes_on(event: ProcessEvent, last: ProcessEvent | None) -> bool:
    """Say whether it is a piece more of one event, which has grown where secrets were replaced."""
    return (
        isinstance(event, MoreArgv)
        and isinstance(last, MoreArgv)
        and replace(event, data=b"") == replace(last, data=b"")
    )


def _place(wall: Wall, name: str, detail: str) -> tuple[str, ...]:
    """Say by what denials are compared: those of the guard by their name alone, since the kernel's
    counters know no path."""
    return (name, detail) if wall is Wall.NETWORK else (GUARDED, name)


def _denied(denial: Denial) -> Denied:
    wall, rule = GUARD_RULES.get(denial.refused.hook, (Wall.NETWORK, RULE))
    return Denied(
        wall=wall,
        name=denial.refused.name,
        detail=denial.refused.detail or MIXED,
        pid=denial.pid,
        program=denial.program,
        count=denial.count,
        rule=rule,
    )


def _watched(made: Made, mode: str) -> Watched:
    name = NAMES.get(made.number, f"syscall_{made.number}")
    first = made.pid != 0
    if made.killed:
        rule = f"syscalls.kill: {name}"
    elif mode == OBSERVE:
        rule = f"mode: {OBSERVE}"
    else:
        rule = f"syscalls.watch: {name}"
    repeated = family(made.arguments[0]) if made.arguments and not first else ""
    return Watched(
        name=name,
        arguments=real_arguments(name, made.arguments),
        detail=describe(name, made.arguments) if first else repeated,
        pid=made.pid,
        program=made.program,
        count=made.count,
        rule=rule,
        killed=made.killed,
    )


def _kind(watched: Watched) -> tuple[str, ...]:
    """Give what the kernel counts a watched system call by: its name, of a socket its family."""
    sort = str(watched.arguments[0]) if watched.name == SOCKET and watched.arguments else ""
    return "watched", watched.name, sort
