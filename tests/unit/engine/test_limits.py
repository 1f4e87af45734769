"""Limits seen from the outside: which one was reached, and what is told of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import (
    Exited,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    TimedOut,
)
from supervisor.engine import limits
from supervisor.engine.limits import LimitWatch, as_denial, over_locks
from supervisor.sandbox.sandbox import DiskUse
from tests.support.records import make_profile

from .harness import FakeCgroup

BASE = make_profile()
PROFILE = replace(BASE, limits=replace(BASE.limits, cpu_s=2, memory_bytes=1000, pids=8))
FULL = DiskUse(path="/work", used=900, allowed=1000, full=True)


class Watched:
    """The part of a sandbox that is looked at."""

    def __init__(self) -> None:
        self.cgroup = FakeCgroup()
        self.disks: list[DiskUse] = [replace(FULL, full=False)]
        self.told: list[Denied] = []
        self.netlink = (0, 0)
        self.watch = LimitWatch(self, PROFILE, self.told.append)  # type: ignore[arg-type]

    def netlink_use(self) -> tuple[int, int]:
        return self.netlink

    def disk_use(self) -> list[DiskUse]:
        return self.disks


def test_nothing_is_reached() -> None:
    one = Watched()
    one.cgroup.cpu_s = (1.0, 1.0)  # the limit itself may be used
    assert one.watch.look() is None
    assert one.watch.settle() is None
    assert one.told == []


def test_memory() -> None:
    one = Watched()
    one.cgroup.kills, one.cgroup.peak = 2, 999
    wanted = OutOfMemory(limit_bytes=1000, peak_bytes=999, kills=2)
    assert one.watch.look() == one.watch.settle() == wanted


def test_cpu_of_both_modes_counts() -> None:
    one = Watched()
    one.cgroup.cpu_s = (1.2, 0.9)
    assert one.watch.look() == LimitExceeded(limit=LimitKind.CPU, used=2100, allowed=2000)


@pytest.mark.parametrize("use", [(1, 126), (1001, 0)])
def test_netlink_sockets(use: tuple[int, int]) -> None:
    """An eighth of the memory, as for other sockets; and how many of them."""
    one = Watched()
    one.netlink = (1000, 125)
    assert one.watch.look() is None
    one.netlink = use
    reached = one.watch.look()
    assert isinstance(reached, LimitExceeded)
    assert (reached.limit, reached.used, reached.allowed) == (LimitKind.MEMORY, use[1], 125)


@pytest.mark.parametrize(
    ("held", "whole", "over"),
    [
        ({}, True, []),
        ({}, False, []),
        ({"a": 20_000, "b": 0}, True, []),
        ({"a": 20_001, "b": 20_000}, True, ["a"]),
        ({"a": 20_001, "b": 30_000}, True, ["a", "b"]),
        ({"a": 2_001, "b": 2_000}, False, ["a"]),
        ({"a": 2_000, "b": 1_999}, False, []),
        ({"a": 20_001, "b": 30_000}, False, ["a", "b"]),
    ],
)
def test_file_locks(held: dict[str, int], whole: bool, over: list[str]) -> None:
    assert sorted(over_locks(held, whole=whole)) == over


def test_disk() -> None:
    one = Watched()
    one.disks.append(replace(FULL, path="/tmp"))
    assert one.watch.look() == LimitExceeded(
        limit=LimitKind.DISK, used=900, allowed=1000, subject="/tmp"
    )


def test_memory_is_named_before_what_follows_from_it() -> None:
    one = Watched()
    one.cgroup.kills, one.cgroup.cpu_s, one.disks = 1, (9.0, 9.0), [FULL]
    assert isinstance(one.watch.look(), OutOfMemory)


def test_after_the_end_the_cpu_limit_does_not_decide() -> None:
    """A program that ended by itself at its CPU limit has ended by itself."""
    one = Watched()
    one.cgroup.cpu_s = (9.0, 9.0)
    assert one.watch.settle() is None
    assert one.told == []


def test_after_the_end_a_full_mount_decides() -> None:
    """However fast the program was gone; the denial goes with the outcome."""
    one = Watched()
    one.disks = [FULL]
    wanted = LimitExceeded(limit=LimitKind.DISK, used=900, allowed=1000, subject="/work")
    assert one.watch.settle() == wanted
    assert one.told == []


def test_a_mount_without_room_for_another_file_is_full() -> None:
    one = Watched()
    one.disks = [replace(FULL, full=False, files=64, files_allowed=64, files_full=True)]
    wanted = LimitExceeded(limit=LimitKind.INODES, used=64, allowed=64, subject="/work")
    assert one.watch.look() == one.watch.settle() == wanted


@pytest.mark.parametrize(
    "cause",
    [TimedOut(limit_s=1), LimitExceeded(limit=LimitKind.DISK, used=1, allowed=2, subject="/tmp")],
)
def test_a_full_mount_that_does_not_decide_is_told(cause: Outcome) -> None:
    one = Watched()
    one.disks = [FULL]
    one.watch.settle(cause)
    [told] = one.told
    assert (told.wall, told.name, told.detail) == (Wall.LIMIT, "disk", "/work")
    assert (told.used, told.allowed, told.rule) == (900, 1000, "files.write: /work")


def test_refused_forks_are_told_at_once_and_then_together() -> None:
    one = Watched()
    one.cgroup.refused = 1
    assert one.watch.look() is None
    one.cgroup.refused = 500
    assert one.watch.look() is None
    assert [told.count for told in one.told] == [1]
    one.watch.settle()
    assert [told.count for told in one.told] == [1, 499]
    first = one.told[0]
    assert (first.wall, first.name, first.allowed, first.rule) == (
        Wall.LIMIT, "pids", 8, "limits.pids",
    )  # fmt: skip
    one.watch.settle()
    assert len(one.told) == 2


def test_watching_ends_with_the_first_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLL_S", 0)
    one = Watched()
    reached: list[Outcome] = []

    async def scenario() -> None:
        watching = asyncio.ensure_future(one.watch.run(reached.append))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not watching.done()
        one.cgroup.kills = 1
        await watching

    asyncio.run(scenario())
    assert [type(outcome) for outcome in reached] == [OutOfMemory]


@pytest.mark.parametrize(
    ("outcome", "name", "rule"),
    [
        (OutOfMemory(limit_bytes=10, peak_bytes=9, kills=1), "memory", "limits.memory"),
        (LimitExceeded(limit=LimitKind.CPU, used=9, allowed=10), "cpu", "limits.cpu"),
        (LimitExceeded(limit=LimitKind.WALL, used=9, allowed=10), "wall", "limits.wall"),
        (LimitExceeded(limit=LimitKind.OUTPUT, used=9, allowed=10), "output", "limits.output"),
        (
            LimitExceeded(limit=LimitKind.DISK, used=9, allowed=10, subject="/w"),
            "disk",
            "files.write: /w",
        ),
        (
            LimitExceeded(limit=LimitKind.INODES, used=9, allowed=10, subject="/w"),
            "inodes",
            "files.write: /w",
        ),
    ],
)
def test_the_denial_of_a_limit(outcome: Outcome, name: str, rule: str) -> None:
    denied = as_denial(outcome)
    assert denied is not None
    assert (denied.wall, denied.name, denied.rule) == (Wall.LIMIT, name, rule)
    assert (denied.used, denied.allowed) == (9, 10)


@pytest.mark.parametrize("outcome", [Exited(code=1), TimedOut(limit_s=1)])
def test_other_outcomes_are_no_denials(outcome: Outcome) -> None:
    assert as_denial(outcome) is None
