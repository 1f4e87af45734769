"""Watch one call's limits from the outside, and say which was reached."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping

from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import LimitExceeded, LimitKind, Outcome, OutOfMemory
from supervisor.linux.locks import LOCK_BYTES
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import Sandbox
from supervisor.sandbox.arm import socket_bytes

POLL_S = 0.1
MS_S = 1000

LOCKS_MAX = 20_000
"""Record locks that a call may hold: 4 MB of kernel memory that no cgroup is charged for."""

NETLINK_SOCKETS_MAX = 1000
"""Netlink sockets of a call: more than any program opens, and few enough to be looked at often."""


class LimitWatch:
    """The limits that the kernel does not stop a call at by itself."""

    def __init__(
        self, sandbox: Sandbox, profile: EffectiveProfile, tell: Callable[[Denied], None]
    ) -> None:
        self._sandbox = sandbox
        self._profile = profile
        self._limits = profile.limits
        self._tell = tell
        self._forks_refused = 0

    async def run(self, reached: Callable[[Outcome], None]) -> None:
        """Look until a limit is reached, and say so once."""
        while True:
            await asyncio.sleep(POLL_S)
            outcome = self.look()
            if outcome is not None:
                reached(outcome)
                return

    def look(self) -> Outcome | None:
        """Give the outcome of a limit that is reached; tell of one that only holds."""
        self._pids()
        return self._memory() or self._netlink() or self._cpu() or self._disk()

    def settle(self, cause: Outcome | None = None) -> Outcome | None:
        """Look for the last time, after the end, and give what decides where there is no `cause`
        yet: what cannot have been written decides, however fast the program was gone. Of the full
        mounts, tell those that do not decide: what does is told by itself."""
        self._pids(final=True)
        outcome = self._memory() or self._disk()
        decided = cause if cause is not None else outcome
        told = decided.subject if isinstance(decided, LimitExceeded) else ""
        for full in self._full():
            if full.subject != told:
                self._tell(_limit_denial(full))
        return outcome

    def _memory(self) -> Outcome | None:
        kills = self._sandbox.cgroup.oom_kills()
        if not kills:
            return None
        return OutOfMemory(
            limit_bytes=self._limits.memory_bytes,
            peak_bytes=self._sandbox.cgroup.memory_peak(),
            kills=kills,
        )

    def _netlink(self) -> Outcome | None:
        """Netlink sockets hold kernel memory that no cgroup is charged for."""
        sockets, used = self._sandbox.netlink_use()
        allowed = socket_bytes(self._profile)
        if used <= allowed and sockets <= NETLINK_SOCKETS_MAX:
            return None
        return LimitExceeded(
            limit=LimitKind.MEMORY,
            used=used,
            allowed=allowed,
            subject=f"{sockets} netlink sockets, of {NETLINK_SOCKETS_MAX}",
        )

    def _cpu(self) -> Outcome | None:
        used = sum(self._sandbox.cgroup.cpu())
        if used <= self._limits.cpu_s:
            return None
        return LimitExceeded(
            limit=LimitKind.CPU, used=math.ceil(used * MS_S), allowed=int(self._limits.cpu_s * MS_S)
        )

    def _disk(self) -> Outcome | None:
        return next(self._full(), None)

    def _full(self) -> Iterator[LimitExceeded]:
        for mount in self._sandbox.disk_use():
            if mount.full:
                yield LimitExceeded(
                    limit=LimitKind.DISK,
                    used=mount.used,
                    allowed=mount.allowed,
                    subject=mount.path,
                )
            elif mount.files_full:
                yield LimitExceeded(
                    limit=LimitKind.INODES,
                    used=mount.files,
                    allowed=mount.files_allowed,
                    subject=mount.path,
                )

    def _pids(self, *, final: bool = False) -> None:
        refused = self._sandbox.cgroup.pids_refused()
        new = refused - self._forks_refused
        # The first at once, the rest in one: a fork bomb is one story, not thousands.
        if new and (final or not self._forks_refused):
            self._forks_refused = refused
            self._tell(
                Denied(
                    wall=Wall.LIMIT,
                    name=LimitKind.PIDS.value,
                    count=new,
                    used=max(self._sandbox.cgroup.pids_peak(), self._limits.pids),
                    allowed=self._limits.pids,
                    rule="limits.pids",
                )
            )


def over_locks(held: Mapping[str, int], *, whole: bool) -> dict[str, Outcome]:
    """Give the calls that hold too many record locks, with the outcome that this is.

    Where there are more locks than were looked at, the call that has the most of those goes, too,
    where it has a tenth of what one may have: the next look sees behind them.
    """
    over = {call_id for call_id, count in held.items() if count > LOCKS_MAX}
    if held and not whole:
        most = max(held, key=lambda call_id: held[call_id])
        over |= {most} if held[most] > LOCKS_MAX // 10 else set()
    more = "" if whole else "or more "
    return {
        call_id: LimitExceeded(
            limit=LimitKind.MEMORY,
            used=held[call_id] * LOCK_BYTES,
            allowed=LOCKS_MAX * LOCK_BYTES,
            subject=f"{held[call_id]} {more}file locks",
        )
        for call_id in over
    }


def as_denial(outcome: Outcome) -> Denied | None:
    """Give the denial that goes with a limit's outcome; None for other outcomes."""
    match outcome:
        case OutOfMemory(limit_bytes=allowed, peak_bytes=used, kills=kills):
            what = f"{kills} {'process' if kills == 1 else 'processes'} killed"
            return _limit_denial(
                LimitExceeded(limit=LimitKind.MEMORY, used=used, allowed=allowed, subject=what)
            )
        case LimitExceeded():
            return _limit_denial(outcome)
        case _:
            return None


def _limit_denial(reached: LimitExceeded) -> Denied:
    name, subject = reached.limit.value, reached.subject
    used, allowed = reached.used, reached.allowed
    of_mount = name in (LimitKind.DISK, LimitKind.INODES)
    rule = f"files.write: {subject}" if of_mount else f"limits.{name}"
    return Denied(wall=Wall.LIMIT, name=name, detail=subject, used=used, allowed=allowed, rule=rule)
