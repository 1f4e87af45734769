"""Denied system calls: each answered, each counted, repeats folded, the pace bounded.

The notify descriptor is one end of a socket pair here: a byte stands for a waiting system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.linux.notify import AUDIT_ARCH_X86_64, Notification
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.sandbox import denials
from supervisor.sandbox.denials import DenialWatcher

PTRACE, MOUNT = NUMBERS["ptrace"], NUMBERS["mount"]
INIT = 4242
POLICY = SyscallPolicy(allow=frozenset({"ioctl"}), kill=frozenset({"kexec_load"}), sets=frozenset())
ARGUMENTS = (16, 1, 0, 0, 0, 0)


class Kernel:
    """Plays the other side of the descriptor."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.waiting: deque[Notification | None] = deque()
        self.answered: list[int] = []
        self.told: list[Denied] = []
        self.lost: list[int] = []
        self.failed: list[Exception] = []
        self.order: list[str] = []
        self.gone: set[int] = set()
        self._id = 0

    def ask(self, number: int, *arguments: int, pid: int = 1) -> None:
        """Have a system call wait."""
        self._id += 1
        padded = (*arguments, *ARGUMENTS)[:6] if not arguments else (*arguments, 0, 0, 0, 0, 0)[:6]
        self.waiting.append(
            Notification(
                id=self._id, pid=pid, number=number, arch=AUDIT_ARCH_X86_64, arguments=padded
            )
        )
        self.theirs.send(b"x")

    def vanish(self) -> None:
        """Have a system call wait whose thread goes away as it is looked at."""
        self._id += 1
        self.waiting.append(None)
        self.theirs.send(b"x")

    def skip(self, count: int) -> None:
        """Have system calls wait whose threads go away before anybody looks."""
        self._id += count

    def mark(self) -> None:
        """Have the sandbox's init say that it is there."""
        self.ask(denials.MARK, pid=INIT)

    def still_waits(self, fd: int, notification: Notification) -> bool:
        return notification.id not in self.gone

    def receive(self, fd: int) -> Notification | None:
        os.read(fd, 1)
        return self.waiting.popleft()

    def refuse(self, fd: int, notification: Notification) -> None:
        self.answered.append(notification.id)
        self.order.append("answered")

    def tell(self, denied: Sequence[Denied]) -> None:
        self.told += denied
        self.order.append("told")

    async def settled(self) -> None:
        """Let the loop run until nothing waits."""
        while self.waiting:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(denials, "receive", made.receive)
    monkeypatch.setattr(denials, "refuse", made.refuse)
    monkeypatch.setattr(denials, "still_waits", made.still_waits)
    monkeypatch.setattr(denials, "comm", lambda pid: b"program")
    return made


@contextlib.asynccontextmanager
async def watched(kernel: Kernel) -> AsyncIterator[DenialWatcher]:
    fd = os.dup(kernel.ours.fileno())
    watcher = DenialWatcher(fd, INIT, POLICY, kernel.tell, kernel.lost.append, kernel.failed.append)
    try:
        yield watcher
    finally:
        watcher.close()
        kernel.ours.close()
        kernel.theirs.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_first_is_told_before_it_is_answered(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel) as watcher:
            kernel.ask(PTRACE, pid=77)
            await kernel.settled()
            assert kernel.order == ["told", "answered"]
            assert watcher.count == 1

    run(scenario)
    [denied] = kernel.told
    assert (denied.wall, denied.name, denied.arguments) == (Wall.SYSCALL, "ptrace", ARGUMENTS[:4])
    assert (denied.pid, denied.program, denied.count) == (77, b"program", 1)
    assert denied.detail == "ptrace(PTRACE_ATTACH, 1)"
    assert denied.rule.startswith("syscalls.allow")


def test_repeats_are_counted_and_told_at_the_end(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            for _ in range(100):
                kernel.ask(PTRACE)
            await kernel.settled()
            assert len(kernel.answered) == 100
            assert [denied.count for denied in kernel.told] == [1]

    run(scenario)
    assert [denied.count for denied in kernel.told] == [1, 99]


def test_repeats_are_told_while_the_call_lives(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "FOLD_S", 0.01)

    async def scenario() -> None:
        async with watched(kernel):
            for _ in range(3):
                kernel.ask(PTRACE)
            while len(kernel.told) < 2:
                await asyncio.sleep(0.005)
            # What comes after a flush begins anew: its first is told at once.
            kernel.ask(PTRACE)
            await kernel.settled()
            assert [denied.count for denied in kernel.told] == [1, 2, 1]

    run(scenario)
    assert sum(denied.count for denied in kernel.told) == 4


def test_kinds_are_told_apart(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            for number in (PTRACE, MOUNT):
                for first in (1, 2):
                    kernel.ask(number, first)
                    kernel.ask(number, first)
            await kernel.settled()

    run(scenario)
    found = {(denied.name, denied.arguments[0], denied.count) for denied in kernel.told}
    assert found == {("ptrace", 1, 1), ("ptrace", 2, 1), ("mount", 1, 1), ("mount", 2, 1)}
    assert len(kernel.told) == 8


def test_beyond_so_many_kinds_arguments_are_not_claimed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "KINDS_MAX", 3)

    async def scenario() -> None:
        async with watched(kernel) as watcher:
            for number in range(10):
                kernel.ask(PTRACE, number)
            kernel.ask(MOUNT, 99)
            await kernel.settled()
            assert watcher.count == 11

    run(scenario)
    assert sum(denied.count for denied in kernel.told) == 11
    [rest] = [denied for denied in kernel.told if denied.count > 1]
    assert (rest.name, rest.arguments, rest.detail) == ("ptrace", (), denials.MIXED)
    assert rest.count == 6
    # Another system call is told even so, with its own arguments.
    assert any(denied.name == "mount" and denied.arguments[0] == 99 for denied in kernel.told)


def test_whoever_makes_up_arguments_is_told_by_system_call_from_some_point_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "TOLD_MAX", 4)
    monkeypatch.setattr(denials, "FOLD_S", 0.0)
    monkeypatch.setattr(denials, "SPENT_FOLD_S", 1e6)

    async def scenario() -> None:
        async with watched(kernel) as watcher:
            for number in range(20):
                kernel.ask(PTRACE, number)
                await kernel.settled()
                await asyncio.sleep(0)
            assert watcher.count == 20

    run(scenario)
    assert sum(denied.count for denied in kernel.told) == 20
    assert len([denied for denied in kernel.told if denied.count == 1]) <= 6
    assert (kernel.told[-1].arguments, kernel.told[-1].detail) == ((), denials.MIXED)


def test_a_call_that_vanished_is_counted_and_not_answered(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel) as watcher:
            kernel.vanish()
            kernel.ask(MOUNT)
            await kernel.settled()
            assert watcher.count == 1

    run(scenario)
    assert [denied.name for denied in kernel.told] == ["mount"]
    assert kernel.answered == [2]


def test_what_was_gone_before_anybody_looked_is_counted(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel) as watcher:
            kernel.mark()
            kernel.skip(3)
            kernel.ask(MOUNT)
            kernel.vanish()
            kernel.skip(2)
            kernel.ask(PTRACE)
            kernel.skip(4)
            kernel.mark()
            await kernel.settled()
            assert watcher.count == 2

    run(scenario)
    assert [denied.name for denied in kernel.told] == ["mount", "ptrace"]
    assert sum(kernel.lost) == 3 + 3 + 4
    assert len(kernel.answered) == 4


def test_what_vanished_last_is_counted(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            kernel.mark()
            kernel.vanish()
            kernel.vanish()
            await kernel.settled()

    run(scenario)
    assert kernel.lost == [2]


def test_the_kernel_s_numbers_begin_anywhere_and_wrap(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            kernel.skip(denials.ID_MASK - 1)
            kernel.mark()
            kernel.skip(-denials.ID_MASK)  # number 0 is missed
            kernel.ask(PTRACE)
            await kernel.settled()

    run(scenario)
    assert kernel.lost == [1]


def test_the_mark_of_anybody_else_is_a_denial(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            kernel.mark()
            kernel.ask(denials.MARK, pid=INIT + 1)
            kernel.ask(PTRACE, pid=INIT)
            await kernel.settled()

    run(scenario)
    assert [denied.name for denied in kernel.told] == ["reboot", "ptrace"]


def test_answers_that_nobody_waits_for_are_dropped(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "ANSWERS_PER_S_MAX", 0)
    monkeypatch.setattr(denials, "OWED_MAX", 8)

    async def scenario() -> None:
        async with watched(kernel) as watcher:
            kernel.gone = set(range(1, 1000))
            for _ in range(100):
                kernel.ask(PTRACE)
            await kernel.settled()
            assert watcher.count == 100
            assert len(watcher._owed) <= 8

    run(scenario)


def test_more_than_can_be_owed_waits_in_the_kernel(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "ANSWERS_PER_S_MAX", 0)
    monkeypatch.setattr(denials, "OWED_MAX", 8)

    async def scenario() -> None:
        async with watched(kernel) as watcher:
            for _ in range(20):
                kernel.ask(PTRACE)
            await asyncio.sleep(0.01)
            assert (watcher.count, len(kernel.waiting)) == (8, 12)
            monkeypatch.setattr(denials, "ANSWERS_PER_S_MAX", 1000)
            watcher._resume()
            await kernel.settled()
            assert watcher.count == 20
            assert len(kernel.answered) == 20

    run(scenario)


def test_a_number_that_nobody_knows(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            kernel.ask(9999)
            await kernel.settled()

    run(scenario)
    assert [denied.name for denied in kernel.told] == ["syscall_9999"]


def test_the_answer_comes_even_where_telling_fails(kernel: Kernel) -> None:
    """Nothing is allowed by an error, no thread waits for ever, and the call does not go on."""

    def fail(denied: Denied) -> None:
        raise RuntimeError("no record")

    async def scenario() -> None:
        fd = os.dup(kernel.ours.fileno())
        watcher = DenialWatcher(fd, INIT, POLICY, fail, kernel.lost.append, kernel.failed.append)
        kernel.ask(PTRACE)
        while not kernel.answered:
            await asyncio.sleep(0)
        watcher.close()

    run(scenario)
    assert kernel.answered == [1]
    assert [str(error) for error in kernel.failed] == ["no record"]


def test_others_get_their_turn_between_batches(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            for _ in range(denials.BATCH_MAX * 3):
                kernel.ask(PTRACE)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert 0 < len(kernel.answered) <= denials.BATCH_MAX * 2

    run(scenario)


def test_a_flood_waits_and_is_not_dropped(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "ANSWERS_PER_S_MAX", 10)
    now = 1000.0
    monkeypatch.setattr(denials, "time", SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        async with watched(kernel) as watcher:
            loop = asyncio.get_running_loop()
            real = loop.call_later

            def call_later(delay: float, callback: Any, *rest: Any, **options: Any) -> Any:
                return real(0 if callback == watcher._resume else delay, callback, *rest, **options)

            monkeypatch.setattr(loop, "call_later", call_later)
            for _ in range(25):
                kernel.ask(PTRACE)
            while len(kernel.answered) < 10:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert len(kernel.answered) == 10  # a second has not passed
            assert watcher.count == 25  # and yet all of them are known
            now += 1.0
            while len(kernel.answered) < 20:
                await asyncio.sleep(0)
            now += 1.0
            await kernel.settled()
            assert len(kernel.answered) == 25
            assert watcher.count == 25

    run(scenario)
    assert sum(denied.count for denied in kernel.told) == 25


def test_when_everybody_is_gone_nothing_spins(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel) as watcher:
            kernel.theirs.close()
            # A closed socket is readable for ever; the kernel's descriptor only hangs up.
            watcher._poll = Hung()  # type: ignore[assignment]
            await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().remove_reader(watcher._fd) is False

    run(scenario)


class Hung:
    """A poll that finds the descriptor hung up."""

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        return [(0, 0x10)]


def test_closing_twice_does_no_harm(kernel: Kernel) -> None:
    async def scenario() -> None:
        async with watched(kernel) as watcher:
            watcher.close()
            watcher.close()
        assert kernel.told == []

    run(scenario)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("ptrace", "syscalls.allow: ptrace is not in it"),
        ("ioctl", "syscalls.allow: ioctl, but not with these arguments"),
        ("kexec_load", "syscalls.kill: kexec_load"),
    ],
)
def test_the_rule_names_the_line_that_decided(kernel: Kernel, name: str, rule: str) -> None:
    async def scenario() -> None:
        async with watched(kernel):
            kernel.ask(NUMBERS[name])
            await kernel.settled()
        assert [denied.rule for denied in kernel.told] == [rule]

    run(scenario)
