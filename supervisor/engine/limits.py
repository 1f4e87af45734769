"""Watch one call's limits from the outside, and say which was reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import LimitExceeded, LimitKind, Outcome, OutOfMemory
from supervisor.linux.locks import LOCK_BYTES
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import Sandbox
from supervisor.sandbox.sandbox import DiskUse

POLL_S = 0.1
MS_S = 1000

LOCKS_MAX = 20_000
"""Record locks that a call may hold: 4 MB of kernel memory that no cgroup is charged for."""


class LimitWatch:
    """The limits that the kernel does not stop a call at by itself."""

    @staticmethod
    def locks(held: int) -> Outcome | None:
        """Give the outcome of holding so many record locks."""
        if held <= LOCKS_MAX:
            return None
        return LimitExceeded(
            limit=LimitKind.MEMORY,
            used=held * LOCK_BYTES,
            allowed=LOCKS_MAX * LOCK_BYTES,
            subject=f"{held} file locks",
        )

    def __init__(
        self, sandbox: Sandbox, profile: EffectiveProfile, tell: Callable[[Denied], None]
    ) -> None:
        self._sandbox = sandbox
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
        return self._memory() or self._cpu() or self._disk()

    def settle(self, cause: Outcome | None = None) -> Outcome | None:
        """Look for the last time, after the end: memory still decides, the rest is told, without
        the `cause` of the end, which is told by itself."""
        self._pids(final=True)
        told = cause.subject if isinstance(cause, LimitExceeded) else ""
        for mount in self._sandbox.disk_use():
            if mount.full and mount.path != told:
                self._tell(_full(mount))
        return self._memory()

    def _memory(self) -> Outcome | None:
        kills = self._sandbox.cgroup.oom_kills()
        if not kills:
            return None
        return OutOfMemory(
            limit_bytes=self._limits.memory_bytes,
            peak_bytes=self._sandbox.cgroup.memory_peak(),
            kills=kills,
        )

    def _cpu(self) -> Outcome | None:
        used = sum(self._sandbox.cgroup.cpu())
        if used <= self._limits.cpu_s:
            return None
        return LimitExceeded(
            limit=LimitKind.CPU, used=int(used * MS_S), allowed=int(self._limits.cpu_s * MS_S)
        )

    def _disk(self) -> Outcome | None:
        for mount in self._sandbox.disk_use():
            if mount.full:
                return LimitExceeded(
                    limit=LimitKind.DISK,
                    used=mount.used,
                    allowed=mount.allowed,
                    subject=mount.path,
                )
        return None

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


def _full(mount: DiskUse) -> Denied:
    return Denied(
        wall=Wall.LIMIT,
        name=LimitKind.DISK.value,
        detail=mount.path,
        used=mount.used,
        allowed=mount.allowed,
        rule=f"files.write: {mount.path}",
    )


def as_denial(outcome: Outcome) -> Denied | None:
    """Give the denial that goes with a limit's outcome; None for other outcomes."""
    match outcome:
        case OutOfMemory(limit_bytes=allowed, peak_bytes=used, kills=kills):
            name, subject = LimitKind.MEMORY.value, f"{kills} processes killed"
        case LimitExceeded(limit=limit, used=used, allowed=allowed, subject=subject):
            name = limit.value
        case _:
            return None
    rule = f"files.write: {subject}" if name == LimitKind.DISK else f"limits.{name}"
    return Denied(wall=Wall.LIMIT, name=name, detail=subject, used=used, allowed=allowed, rule=rule)
