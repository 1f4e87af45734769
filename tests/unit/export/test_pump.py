"""The pump of a sink: nothing is lost whatever the sink does, nothing is acknowledged early."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from supervisor.audit.journal import Journal, JournalOptions
from supervisor.export import pump as pump_module
from supervisor.export.event import Entry, Event, Head, Opening, uid_of
from supervisor.export.letters import Letter
from supervisor.export.pump import OPEN_AFTER, Circuit, Pump, PumpOptions
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.tail import Tail
from tests.unit.export.test_tail import Folder

OPTIONS = PumpOptions(batch_events=7, batch_bytes=10_000, linger_s=0.01, deadline_s=5.0)
HEAD = Head(size=1, root="ab")


class Plain:
    """Two events of each denial, one of all else; entry 13 cannot be encoded where `fails`."""

    def __init__(self, fails: int = -1) -> None:
        self.fails = fails
        self.openings: dict[int, Opening | None] = {}

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        assert head == HEAD
        if entry.index == self.fails:
            raise KeyError("body")
        self.openings[entry.index] = opening
        count = 2 if entry.kind == "denied" else 1
        return [
            Event(
                uid_of(entry, number), entry.index, number == count - 1, entry.time_ns, entry.kind,
                1, 6003, b"%d.%d" % (entry.index, number),
            )
            for number in range(count)
        ]  # fmt: skip


class Receiver:
    """Does with each batch what `act` says, else takes it."""

    def __init__(self, act: Callable[[int, Sequence[Event]], Sequence[Rejected]]) -> None:
        self.act = act
        self.taken: list[bytes] = []
        self.sizes: list[int] = []
        self.trail = 0

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        await asyncio.sleep(0)
        self.sizes.append(len(batch))
        rejected = self.act(len(self.sizes), batch)
        gone = {one.position for one in rejected}
        self.taken += [event.data for place, event in enumerate(batch) if place not in gone]
        return rejected

    def trails(self) -> int:
        return self.trail

    async def close(self) -> None:
        pass


class Keeper:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.cursor = (0, "")
        self.letters: list[Letter] = []
        self.looked_up: list[str] = []
        self.receiver: Receiver | None = None
        self.early: list[int] = []

    async def durable(self, beyond: int) -> int:
        while (count := self.journal.head[0]) <= beyond:
            await asyncio.sleep(0.001)
        return count

    async def head(self) -> Head:
        return HEAD

    async def opening(self, call: str) -> Opening | None:
        self.looked_up.append(call)
        return Opening(0, 1, {"looked": "up"})

    async def acknowledged(self, index: int, leaf: str) -> None:
        assert index > self.cursor[0]
        self.cursor = (index, leaf)
        if self.receiver is not None:
            came = {int(data.split(b".")[0]) for data in self.receiver.taken}
            dead = {letter.index for letter in self.letters}
            self.early += [n for n in range(index) if n not in came | dead]

    async def refused(self, letters: Sequence[Letter]) -> None:
        self.letters += letters


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    options = JournalOptions(linger_s=60.0, segment_bytes=20_000)
    journal = Journal.open(tmp_path / "log", options=options)[0]
    for call in range(10):
        name = f"call-{call}"
        journal.append("intent", {"call": call}, time_ns=1, call=name, sequence=1)
        for number in range(8):
            journal.append("denied", {"n": number}, time_ns=2, call=name, sequence=2 + number)
        journal.append("outcome", {}, time_ns=3, call=name, sequence=10)
    journal.append("read", {}, time_ns=4)
    journal.sync()
    return journal


def expected(but: Sequence[bytes] = ()) -> list[bytes]:
    found = []
    for index in range(101):
        count = 2 if index < 100 and 0 < index % 10 < 9 else 1
        found += [b"%d.%d" % (index, number) for number in range(count)]
    return [data for data in found if data not in but]


@contextlib.asynccontextmanager
async def pumping(
    journal: Journal, receiver: Receiver, keeper: Keeper, made_by: Plain | None = None, at: int = 0
) -> AsyncIterator[Pump]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    tail = Tail(Folder(journal.directory))
    await tail.seek(at)
    keeper.receiver = receiver
    pump = Pump(tail, made_by or Plain(), receiver, keeper, OPTIONS, sleep=sleep)
    pump.waits = waits  # type: ignore[attr-defined]
    task = asyncio.create_task(pump.run())
    try:
        yield pump
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        tail.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def deliver(
    journal: Journal,
    act: Callable[[int, Sequence[Event]], Sequence[Rejected]],
    made_by: Plain | None = None,
) -> tuple[Receiver, Keeper, Pump]:
    receiver, keeper = Receiver(act), Keeper(journal)

    async def main() -> Pump:
        async with pumping(journal, receiver, keeper, made_by) as pump:
            await until(lambda: keeper.cursor[0] == 101)
            return pump

    pump = asyncio.run(main())
    assert keeper.early == []
    assert keeper.cursor[1] == journal.head[1].hex()
    return receiver, keeper, pump


def firsts(taken: Sequence[bytes]) -> list[bytes]:
    return list(dict.fromkeys(taken))


def test_everything_comes_in_order_and_once(journal: Journal) -> None:
    receiver, keeper, pump = deliver(journal, lambda number, batch: ())
    assert receiver.taken == expected()
    assert max(receiver.sizes) <= OPTIONS.batch_events + 1
    assert (keeper.letters, pump.state.retries, pump.state.dead) == ([], 0, 0)
    assert pump.state.events == len(expected())


def test_entries_of_a_call_have_its_intent(journal: Journal) -> None:
    made_by = Plain()
    _, keeper, _ = deliver(journal, lambda number, batch: (), made_by)
    assert keeper.looked_up == []
    for index, opening in made_by.openings.items():
        call = index // 10
        assert (opening.body if opening else None) == ({"call": call} if index < 100 else None)


def test_the_intent_of_a_call_that_began_before_is_looked_up_once(journal: Journal) -> None:
    made_by, keeper = Plain(), Keeper(journal)
    receiver = Receiver(lambda number, batch: ())

    async def main() -> None:
        async with pumping(journal, receiver, keeper, made_by, at=4):
            await until(lambda: keeper.cursor[0] == 101)

    keeper.receiver = None
    asyncio.run(main())
    assert keeper.looked_up == ["call-0"]
    assert made_by.openings[5] == Opening(0, 1, {"looked": "up"})


@pytest.mark.parametrize("seed", range(20))
def test_a_sink_that_fails_at_random_loses_nothing_and_changes_no_order(
    seed: int, journal: Journal
) -> None:
    rng = random.Random(seed)

    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        roll = rng.random()
        if roll < 0.2:
            raise SinkError("down", retry_after_s=rng.random())
        if roll < 0.25:
            raise ConnectionResetError("reset")
        if roll < 0.3:
            raise TimeoutError
        if roll < 0.35:
            raise ValueError("a bug of the sink")
        return ()

    receiver, keeper, pump = deliver(journal, act)
    assert firsts(receiver.taken) == expected()
    assert pump.state.retries > 0
    assert keeper.letters == []


def test_events_that_arrive_and_are_not_acknowledged_come_again(journal: Journal) -> None:
    receiver: Receiver

    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        if number % 2:
            receiver.taken += [event.data for event in batch[:3]]
            raise SinkError("the answer was lost")
        return ()

    receiver = Receiver(act)
    keeper = Keeper(journal)

    async def main() -> None:
        async with pumping(journal, receiver, keeper):
            await until(lambda: keeper.cursor[0] == 101)

    asyncio.run(main())
    assert firsts(receiver.taken) == expected()
    assert len(receiver.taken) > len(expected())


@pytest.mark.parametrize("poison", [[b"5.0"], [b"5.1", b"6.0"], [b"0.0"], [b"100.0"], expected()])
def test_what_is_refused_alone_is_a_dead_letter(journal: Journal, poison: list[bytes]) -> None:
    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        if any(event.data in poison for event in batch):
            raise Refused("413 too large")
        return ()

    receiver, keeper, pump = deliver(journal, act)
    assert receiver.taken == expected(poison)
    assert [letter.index for letter in keeper.letters] == [int(p.split(b".")[0]) for p in poison]
    assert {letter.why for letter in keeper.letters} == {"413 too large"}
    assert [letter.uid.rpartition("-")[2] for letter in keeper.letters] == [
        p.decode().rpartition(".")[2] for p in poison
    ]
    assert pump.state.dead == len(poison)


def test_what_is_rejected_by_itself_is_a_dead_letter(journal: Journal) -> None:
    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        return [Rejected(at, "no") for at, event in enumerate(batch) if event.data == b"7.1"]

    receiver, keeper, _ = deliver(journal, act)
    assert receiver.taken == expected([b"7.1"])
    assert [(letter.index, letter.why) for letter in keeper.letters] == [(7, "no")]


def test_an_entry_that_cannot_be_encoded_is_a_dead_letter(journal: Journal) -> None:
    receiver, keeper, _ = deliver(journal, lambda number, batch: (), Plain(fails=13))
    assert receiver.taken == expected([b"13.0", b"13.1"])
    assert [letter.index for letter in keeper.letters] == [13]
    assert "cannot be encoded" in keeper.letters[0].why


def test_an_event_on_which_the_sink_itself_breaks_is_a_dead_letter(journal: Journal) -> None:
    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        if any(event.data == b"7.1" for event in batch):
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "a bug")
        return ()

    receiver, keeper, _ = deliver(journal, act)
    assert receiver.taken == expected([b"7.1"])
    assert "the sink fails on it" in keeper.letters[0].why


def test_a_sink_that_stays_down_is_tried_with_one_event(journal: Journal) -> None:
    downs = OPEN_AFTER + 3

    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        if number <= downs:
            raise SinkError("down", retry_after_s=0.5)
        return ()

    receiver, _, pump = deliver(journal, act)
    assert receiver.sizes[OPEN_AFTER : downs + 1] == [1] * (downs + 1 - OPEN_AFTER)
    assert receiver.sizes[downs + 1] > 1
    assert pump.state.circuit is Circuit.CLOSED
    assert (pump.state.failures, pump.state.failing_since, pump.state.why) == (0, 0.0, "")
    waits = pump.waits  # type: ignore[attr-defined]
    assert len(waits) == downs
    assert all(0.5 <= wait <= OPTIONS.wait_max_s for wait in waits)


@pytest.mark.parametrize("says", ["no to all at once", "no to each"])
def test_who_refuses_everything_is_taken_for_ill(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setattr(pump_module, "REFUSED_MAX", 10)
    ill, letters = True, list[int]()

    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        if not ill:
            return ()
        letters.append(len(keeper.letters))
        if says == "no to each":
            return [Rejected(place, "no") for place in range(len(batch))]
        raise Refused("no")

    receiver, keeper = Receiver(act), Keeper(journal)

    async def main() -> Pump:
        nonlocal ill
        async with pumping(journal, receiver, keeper) as pump:
            await until(lambda: pump.state.failures > OPEN_AFTER + 20)
            assert pump.state.circuit is not Circuit.CLOSED
            assert "it has refused" in pump.state.why
            ill = False
            await until(lambda: keeper.cursor[0] == 101)
            return pump

    pump = asyncio.run(main())
    refused = len(letters)
    assert receiver.sizes[refused - 20 : refused] == [1] * 20  # One at a time, each a letter,
    assert letters[-1] - letters[-20] == 19
    waits = pump.waits  # type: ignore[attr-defined]
    assert len(waits) >= 20  # and a wait after each, which is not long.
    assert max(waits) <= pump_module.REFUSED_WAIT_S
    assert (pump.state.circuit, pump.state.failures, pump.state.why) == (Circuit.CLOSED, 0, "")
    dead = {letter.uid for letter in keeper.letters}
    assert len(receiver.taken) + len(dead) == len(expected())
    assert max(receiver.sizes[refused + 1 :]) > 1


def test_what_is_told_while_it_fails(journal: Journal) -> None:
    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        raise SinkError("certificate expired")

    receiver, keeper = Receiver(act), Keeper(journal)

    async def main() -> None:
        async with pumping(journal, receiver, keeper) as pump:
            await until(lambda: pump.state.failures > OPEN_AFTER)
            assert pump.state.circuit is not Circuit.CLOSED
            assert pump.state.why == "certificate expired"
            assert pump.state.failing_since > 0
            assert pump.state.acknowledged == 0

    asyncio.run(main())
    assert keeper.cursor == (0, "")


def test_what_comes_later_is_delivered_too(journal: Journal) -> None:
    receiver, keeper = Receiver(lambda number, batch: ()), Keeper(journal)

    async def main() -> None:
        async with pumping(journal, receiver, keeper):
            await until(lambda: keeper.cursor[0] == 101)
            journal.append("read", {}, time_ns=4)
            journal.sync()
            await until(lambda: keeper.cursor[0] == 102)

    asyncio.run(main())
    assert receiver.taken[-1] == b"101.0"


def test_the_cursor_stays_behind_what_trails_and_follows(journal: Journal) -> None:
    def act(number: int, batch: Sequence[Event]) -> Sequence[Rejected]:
        return [Rejected(at, "no") for at, event in enumerate(batch) if event.data == b"97.0"]

    receiver, keeper = Receiver(act), Keeper(journal)
    receiver.trail = 30

    async def main() -> None:
        async with pumping(journal, receiver, keeper) as pump:
            await until(lambda: pump.state.sent == 101)
            arrived = receiver.taken[: len(receiver.taken) - 30]
            assert 70 < keeper.cursor[0] <= int(arrived[-1].split(b".")[0]) + 1
            assert pump.state.acknowledged == keeper.cursor[0]
            receiver.trail = 0
            await until(lambda: pump.state.acknowledged == 101)

    asyncio.run(main())
    assert keeper.cursor == (101, journal.head[1].hex())


def test_a_batch_waits_for_more_from_its_first_entry_on(tmp_path: Path) -> None:
    """Not from its last one: entries that come one by one would never leave."""
    journal = Journal.open(tmp_path / "slow", options=JournalOptions(linger_s=60.0))[0]
    receiver, keeper = Receiver(lambda number, batch: ()), Keeper(journal)
    late: list[int] = []

    async def main() -> None:
        tail = Tail(Folder(journal.directory))
        await tail.seek(0)
        options = PumpOptions(batch_events=1000, linger_s=0.3)
        pump = asyncio.create_task(Pump(tail, Plain(), receiver, keeper, options).run())
        while not receiver.taken:
            journal.append("read", {}, time_ns=4)
            journal.sync()
            late.append(journal.head[0])
            await asyncio.sleep(0.05)
            assert len(late) < 200
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump
        tail.close()

    asyncio.run(main())
    assert 0 < receiver.sizes[0] < 200
