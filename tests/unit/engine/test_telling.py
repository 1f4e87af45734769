"""What is told of a call: in its order, together where that is quicker, and what ends the call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from unittest import mock

import pytest

from supervisor.audit.recorder import TOLD_AT_ONCE
from supervisor.call.events import CallEvent, Denied, Event, Lost, Processes, Wall, Watched
from supervisor.call.outcome import Stopped
from supervisor.engine.telling import Teller
from supervisor.errors import AuditUnavailable
from tests.support.records import FLOW, PROCESSES, make_profile

MOUNT = Denied(wall=Wall.SYSCALL, name="mount")
SEEN = Watched(name="getppid", count=5)
PTRACE = replace(MOUNT, name="ptrace")
LOST = Lost(what="exec", count=2, reason="slow")
PROCESSED = Processes(events=PROCESSES)
FULL = AuditUnavailable("RECORD_FULL", "no space")


class Record:
    """Takes what a recorder does; what is of `refused` it has no room for."""

    def __init__(self) -> None:
        self.taken: list[list[Event]] = []
        self.refused: type[Any] | None = None

    searches = False

    def tell(self, events: list[Any]) -> list[CallEvent]:
        if self.refused is not None and isinstance(events[0], self.refused):
            raise FULL
        self.taken.append(events)
        return [CallEvent(call_id="c", sequence=0, time_ns=0, event=event) for event in events]

    def processes(self, one: Processes) -> CallEvent:
        return self.tell([one])[0]

    def lost(self, one: Lost) -> CallEvent:
        return self.tell([one])[0]


class World:
    def __init__(self, kill: tuple[str, ...] = ()) -> None:
        self.record = Record()
        self.observer = mock.Mock()
        self.published: list[Event] = []
        self.failed: list[Exception] = []
        self.stopped: list[Any] = []
        profile = make_profile()
        self.teller = Teller(
            replace(profile, syscalls=replace(profile.syscalls, kill=frozenset(kill))),
            self.observer,
            lambda: cast("Any", self.record),
            executor=mock.Mock(),
            publish=lambda one: self.published.append(one.event),
            fail=self.failed.append,
            stop=self.stopped.append,
        )


def test_those_of_one_type_go_on_record_together_and_in_their_order() -> None:
    world = World()
    events = [MOUNT, MOUNT, PROCESSED, PROCESSED, FLOW, LOST, LOST, MOUNT, SEEN, SEEN]
    world.teller.take(events)
    assert [len(batch) for batch in world.record.taken] == [2, 1, 1, 1, 1, 1, 1, 2]
    assert world.published == events
    assert [one[0] for one in world.observer.method_calls] == [
        "denied", "denied", "flow", "lost", "lost", "denied", "watched", "watched",
    ]  # fmt: skip
    assert not world.failed and not world.stopped


def test_a_flood_goes_on_record_in_parts() -> None:
    world = World()
    world.teller.take([MOUNT] * (TOLD_AT_ONCE + 1))
    assert [len(batch) for batch in world.record.taken] == [TOLD_AT_ONCE, 1]
    assert len(world.published) == TOLD_AT_ONCE + 1


@pytest.mark.parametrize("kind", [Denied, Processes, Lost])
def test_what_cannot_be_recorded_ends_the_call_and_nothing_else(kind: type[Any]) -> None:
    world = World()
    world.record.refused = kind
    events = [MOUNT, PROCESSED, LOST]
    world.teller.take(events)
    assert world.failed == [FULL]
    assert world.published == [one for one in events if not isinstance(one, kind)]


@pytest.mark.parametrize(
    ("event", "kills"),
    [
        (PTRACE, True),
        (MOUNT, False),
        (replace(PTRACE, wall=Wall.NETWORK), False),
        (Watched(name="ptrace", killed=True), True),
        (SEEN, False),
        (FLOW, False),
        (LOST, False),
    ],
)
def test_what_ends_a_call(event: Any, *, kills: bool) -> None:
    world = World(kill=("ptrace",))
    world.record.refused = Denied  # also where it could not be recorded
    world.teller.take([SEEN, event])
    assert world.stopped == [Stopped(by="daemon", reason="SYSCALL_KILL")] * kills


def test_denials_that_were_lost_may_have_been_ones_that_kill() -> None:
    for kill in ((), ("ptrace",)):
        world = World(kill=kill)
        world.teller.lose(3)
        assert world.published == [Lost(what="denial", count=3, reason="THREAD_GONE")]
        assert bool(world.stopped) is bool(kill)
