"""Dead letters that are sent again: each is made anew, and is delivered or refused anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from supervisor.export import redeliver as module
from supervisor.export.event import Entry, Event, Head, Opening, uid_of, uid_of_entry
from supervisor.export.letters import Letter, Letters
from supervisor.export.redeliver import Outcome
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.tail import Tail
from tests.support.redelivering import Direct, redeliver
from tests.unit.export.test_exporter import Log

ENTRIES = 301

Act = Callable[[Event], Sequence[Rejected]]


class Pair:
    """Two events of each entry, with its opening and head; `fails` cannot be encoded."""

    def __init__(self, fails: int = -1) -> None:
        self.fails = fails

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        if entry.index == self.fails:
            raise KeyError("body")
        assert opening is not None
        data = b"%d %d %s" % (entry.index, head.size, str(opening.body).encode())
        return [
            Event(uid_of(entry, n), entry.index, n == 1, entry.time_ns, entry.kind, 1, 6003, data)
            for n in range(2)
        ]


class Receiver:
    def __init__(self, act: Act = lambda event: ()) -> None:
        self.act = act
        self.taken: list[Event] = []
        self.trail = 0

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        (event,) = batch
        rejected = self.act(event)
        if not rejected:
            self.taken.append(event)
        return rejected

    def trails(self) -> int:
        trail, self.trail = self.trail, max(0, self.trail - 1)
        return trail

    async def close(self) -> None:
        pass


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path)
    made.write(ENTRIES)
    assert len(made.firsts()) > 1
    return made


def refused(log: Log, folder: Path, *which: tuple[int, int | None]) -> Letters:
    """Give letters of events: index, and number in the entry, or None for all of it."""
    made = Letters(folder / "dead")

    async def read(index: int) -> Entry:
        tail = Tail(Direct(log))
        await tail.seek(index)
        (entry,) = await tail.read(index + 1)
        tail.close()
        return entry

    for index, number in which:
        entry = asyncio.run(read(index))
        uid = uid_of_entry(entry) if number is None else uid_of(entry, number)
        made.add([Letter(index=index, uid=uid, why="413 too large", time_ns=1)])
    return made


def run(
    log: Log, letters: Letters, sink: Receiver, *, fails: int = -1, uids: list[str] | None = None
) -> Outcome:
    return asyncio.run(redeliver(letters, uids, Direct(log), Pair(fails), sink))


def came(sink: Receiver) -> list[tuple[int, int]]:
    return [(event.index, int(event.uid.rpartition("-")[2])) for event in sink.taken]


def test_the_first_the_last_and_two_of_one_entry_come_in_order(log: Log, tmp_path: Path) -> None:
    letters = refused(log, tmp_path, (ENTRIES - 1, 1), (150, 1), (150, 0), (0, 0))
    sink = Receiver()
    outcome = run(log, letters, sink)
    assert came(sink) == [(0, 0), (150, 0), (150, 1), (ENTRIES - 1, 1)]
    assert sink.taken[1].data == b"150 301 {'caller': {'name': 'call-1'}}"
    assert outcome.delivered == [event.uid for event in sink.taken]
    assert (outcome.refused, outcome.stopped, letters.waiting()) == ([], "", [])


def test_what_is_refused_again_waits_with_the_new_why(log: Log, tmp_path: Path) -> None:
    def act(event: Event) -> Sequence[Rejected]:
        if event.index == 1:
            raise Refused("422 still not")
        return [Rejected(0, "400 nor this")] if event.index == 2 else ()

    letters = refused(log, tmp_path, (1, 0), (2, 0), (3, 0))
    sink = Receiver(act)
    outcome = run(log, letters, sink)
    assert came(sink) == [(3, 0)]
    assert [(one.index, one.why) for one in letters.waiting()] == [
        (1, "422 still not"),
        (2, "400 nor this"),
    ]
    assert outcome.refused == letters.waiting()
    assert all(one.time_ns > 1 for one in letters.waiting())
    run(log, letters, sink := Receiver())
    assert came(sink) == [(1, 0), (2, 0)]
    assert letters.waiting() == []


def test_only_those_that_are_named(log: Log, tmp_path: Path) -> None:
    letters = refused(log, tmp_path, (1, 0), (2, 0))
    _, second = letters.waiting()
    sink = Receiver()
    run(log, letters, sink, uids=[second.uid])
    assert came(sink) == [(2, 0)]
    assert [one.index for one in letters.waiting()] == [1]
    with pytest.raises(KeyError, match=second.uid):
        run(log, letters, sink, uids=[second.uid])


def test_an_entry_that_could_not_be_encoded_is_sent_whole(log: Log, tmp_path: Path) -> None:
    letters = refused(log, tmp_path, (7, None))
    sink = Receiver()
    run(log, letters, sink, fails=7)
    assert "cannot be encoded" in letters.waiting()[0].why
    run(log, letters, sink)
    assert came(sink) == [(7, 0), (7, 1)]
    assert letters.waiting() == []


def test_what_its_entry_does_not_make_stays(log: Log, tmp_path: Path) -> None:
    letters = refused(log, tmp_path, (7, 2))
    letters.add(
        [
            Letter(index=8, uid=f"8-{'0' * 16}-0", why="of another log", time_ns=1),
            Letter(index=ENTRIES, uid=f"{ENTRIES}-{'0' * 16}-0", why="not there", time_ns=1),
        ]
    )
    sink = Receiver()
    run(log, letters, sink)
    assert came(sink) == []
    whys = [one.why for one in letters.waiting()]
    assert whys[:2] == ["its entry makes no such event any more"] * 2
    assert whys[2].startswith("its entry cannot be read")


def test_who_is_away_ends_it_and_what_came_before_is_delivered(log: Log, tmp_path: Path) -> None:
    def act(event: Event) -> Sequence[Rejected]:
        if event.index == 2:
            raise SinkError("connection refused")
        return ()

    letters = refused(log, tmp_path, (1, 0), (2, 0), (3, 0))
    outcome = run(log, letters, Receiver(act))
    assert outcome.stopped == "connection refused"
    assert [(one.index, one.why) for one in letters.waiting()] == [
        (2, "413 too large"),
        (3, "413 too large"),
    ]


def test_what_trails_is_waited_for(log: Log, tmp_path: Path) -> None:
    letters = refused(log, tmp_path, (1, 0))
    sink = Receiver()
    sink.trail = 3
    assert run(log, letters, sink).stopped == ""
    assert (sink.trail, letters.waiting()) == (0, [])


def test_what_trails_for_ever_is_not_delivered(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROVEN_S", 0.1)
    letters = refused(log, tmp_path, (1, 0))
    sink = Receiver()
    sink.trail = 1 << 30
    outcome = run(log, letters, sink)
    assert outcome.stopped
    assert (outcome.delivered, len(letters.waiting())) == ([], 1)
