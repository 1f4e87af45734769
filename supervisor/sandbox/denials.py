"""Answer denied system calls with EPERM, and tell what was denied, folded.

The first of a kind (same system call, same arguments) is told before its caller gets the answer;
repeats are counted and told once a second and at the end. A caller waits for its answer, so the
pace at which answers are given bounds what a flood can cost the daemon, and what is asked is read
at once all the same: a flood hides nothing.

A thread that is killed or interrupted while it waits takes what it asked with it. The kernel
numbers what it tells (kernel/seccomp.c, seccomp_next_notify_id), so a gap in the numbers says how
many did, and that is told as lost. The sandbox's init makes a system call of its own that is always
denied before it starts the program and after the program's end (cell/cell.c): between these two
marks no number is missed. They are answered and counted by nobody.
"""

from __future__ import annotations

import asyncio
import collections
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from supervisor.call.events import OTHER_ARGUMENTS, Denied, Wall
from supervisor.linux.notify import Notification, receive, refuse, still_waits
from supervisor.linux.process import comm
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_arguments import real_arguments
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import rules_for
from supervisor.sandbox.arguments import describe

NAMES = {number: name for name, number in NUMBERS.items()}

BATCH_MAX = 32
"""Answers given in a row before the event loop gets its turn."""

ANSWERS_PER_S_MAX = 4000
"""About a tenth of a core. A flood waits; an honest program never comes near it."""

OWED_MAX = 1024
"""Answers that may be owed: a thread that is interrupted asks again before it had its answer."""

MARK = NUMBERS["reboot"]
ID_MASK = (1 << 64) - 1

FOLD_S = 1.0
KINDS_MAX = 256
"""Kinds told apart between two flushes; what comes beyond is folded by system call alone."""

TOLD_MAX = 65_536
"""Of one call, kinds that are told with their arguments; what comes after is folded by system call,
and told once in `SPENT_FOLD_S`: whoever makes up arguments fills no disk."""

SPENT_FOLD_S = 60.0

MIXED = "arguments differ"


@dataclass(slots=True)
class _Folded:
    last: Denied
    mixed: bool
    repeats: int = 0

    def rest(self) -> Denied:
        """Give what stands for the repeats; it claims nothing that is not true of all of them."""
        if self.mixed:
            return replace(self.last, arguments=(), detail=MIXED, count=self.repeats)
        return replace(self.last, count=self.repeats)


class DenialWatcher:
    """Owns the notify descriptor of one sandbox, from arming to the end."""

    def __init__(
        self,
        fd: int,
        init_pid: int,
        policy: SyscallPolicy,
        tell: Callable[[Sequence[Denied]], None],
        lose: Callable[[int], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._fd = fd
        self._init_pid = init_pid
        self._policy = policy
        self._tell = tell
        self._lose = lose
        self._fail = fail
        self._next_id: int | None = None
        self._gone = 0
        self._unplaced = 0
        self._owed: collections.deque[Notification] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._folded: dict[tuple[int, tuple[int, ...]], _Folded] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._second = time.monotonic()
        self._answers = 0
        self._told = 0
        self.count = 0
        self._reading = True
        self._loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Tell what is still folded and let the descriptor go: later calls get ENOSYS."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        for timer in (self._timer, self._paused):
            if timer is not None:
                timer.cancel()
        self._gone += self._unplaced
        self._flush()
        os.close(self._fd)
        self._fd = -1

    def _pending(self) -> int:
        events = self._poll.poll(0)
        return events[0][1] if events else 0

    def _readable(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 (the loop would log it, and the call go on)
            self._fail(error)

    def _read(self) -> None:
        for _ in range(BATCH_MAX):
            pending = self._pending()
            if not pending & select.POLLIN:
                if pending:
                    # Every task of the sandbox is gone: the descriptor only hangs up from now on.
                    self._loop.remove_reader(self._fd)
                return
            if len(self._owed) >= OWED_MAX and not self._forget_gone():
                # So many threads can wait for nobody: it is read on when some have their answer.
                self._loop.remove_reader(self._fd)
                self._reading = False
                return
            notification = receive(self._fd)
            if notification is None:
                self._unplaced += 1
                self._flush_later()
                continue
            self._count_gone(notification.id)
            if self._is_mark(notification):
                refuse(self._fd, notification)
                continue
            try:
                self._note(notification)
            finally:
                self._owed.append(notification)
                self._answer()

    def _is_mark(self, notification: Notification) -> bool:
        """Say whether this is the init's own: no other process has its id, whatever it does."""
        return notification.pid == self._init_pid and notification.number == MARK

    def _count_gone(self, number: int) -> None:
        """Count what was told and taken back before we read it, by the gap in the numbers."""
        if self._next_id is not None and (gone := (number - self._next_id) & ID_MASK):
            self._gone += gone
            self._flush_later()
        # What was seen to be gone is in the gap, or was no more than an interrupted read.
        self._unplaced = 0
        self._next_id = (number + 1) & ID_MASK

    def _forget_gone(self) -> bool:
        """Drop answers that nobody waits for any more; say whether there is room now."""
        self._owed = collections.deque(one for one in self._owed if still_waits(self._fd, one))
        return len(self._owed) < OWED_MAX

    def _answer(self) -> None:
        """Answer those that wait, as fast as the pace allows."""
        while self._owed and self._paused is None:
            now = time.monotonic()
            if now - self._second >= 1.0:
                self._second, self._answers = now, 0
            if self._answers >= ANSWERS_PER_S_MAX:
                self._paused = self._loop.call_later(self._second + 1.0 - now, self._resume)
                return
            self._answers += 1
            refuse(self._fd, self._owed.popleft())
        if not self._reading and len(self._owed) < OWED_MAX:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _resume(self) -> None:
        self._paused = None
        try:
            self._answer()
        except Exception as error:  # noqa: BLE001 (as above)
            self._fail(error)

    def _note(self, notification: Notification) -> None:
        self.count += 1
        denied = _denied(notification, self._policy)
        key = (notification.number, denied.arguments)
        is_new = key not in self._folded
        if is_new and (len(self._folded) >= KINDS_MAX or self._told >= TOLD_MAX):
            key = (notification.number, ())
        folded = self._folded.get(key)
        if folded is not None:
            folded.last, folded.repeats = denied, folded.repeats + 1
            return
        self._folded[key] = _Folded(denied, mixed=not key[1])
        self._told += 1
        self._flush_later()
        self._tell([denied])

    def _flush_later(self) -> None:
        if self._timer is None:
            fold_s = FOLD_S if self._told < TOLD_MAX else SPENT_FOLD_S
            self._timer = self._loop.call_later(fold_s, self._fold)

    def _fold(self) -> None:
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001 (as above)
            self._fail(error)

    def _flush(self) -> None:
        self._timer = None
        folded, self._folded = self._folded, {}
        for entry in folded.values():
            if entry.repeats:
                self._tell([entry.rest()])
        if self._gone:
            gone, self._gone = self._gone, 0
            self._lose(gone)


def _denied(notification: Notification, policy: SyscallPolicy) -> Denied:
    name = NAMES.get(notification.number, f"syscall_{notification.number}")
    return Denied(
        wall=Wall.SYSCALL,
        name=name,
        arguments=real_arguments(name, notification.arguments),
        detail=describe(name, notification.arguments),
        pid=notification.pid,
        program=comm(notification.pid),
        rule=_rule(name, policy),
    )


def _rule(name: str, policy: SyscallPolicy) -> str:
    if name in policy.kill:
        return f"syscalls.kill: {name}"
    if name in rules_for(policy):
        return f"syscalls.allow: {name}{OTHER_ARGUMENTS}"
    return f"syscalls.allow: {name} is not in it"
