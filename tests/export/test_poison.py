"""Events that are refused for ever, among good ones: for what they say, or since they are too large
and cannot be cut.

Each is a dead letter, the cursor moves on, and what was refused is delivered once its cause is
gone. The first entry of the log, the last one and two in its middle are poisonous; a denial is two
events, so it is two letters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from supervisor.audit.store import Store
from supervisor.call.events import Denied, Wall
from supervisor.call.types import Json
from supervisor.export.build import Order, make_sink
from supervisor.export.formats.make import make_format
from supervisor.export.letters import Letters
from supervisor.export.redeliver import Outcome
from supervisor.export.sinks.s3 import SecurityLake
from tests.export.places import Place, Program, order, place
from tests.export.test_chaos import wait_until
from tests.support.exporting import SOURCE, Host, events_of
from tests.support.records import begin, make_finished, opened
from tests.support.redelivering import Direct, redeliver
from tests.support.web_receiver import POISON

ROOM = 5000
"""What is less than an event with poison, and more than one without."""

LARGE = POISON.decode() * 2000
BY_SIZE = {
    "tls": "event_bytes_max", "relp": "event_bytes_max", "kafka": "message_bytes_max",
    "webhook": "body_bytes_max", "otlp-http": "body_bytes_max", "otlp-grpc": "body_bytes_max",
}  # fmt: skip
"""The option that bounds an event."""

BY_CONTENT = ("splunk", "splunk-ack", "opensearch", "webhook", "otlp-http", "otlp-grpc")


def some(names: Iterable[str], *quick: str) -> list[ParameterSet]:
    """Give names, those that are not quick for `make soak` alone."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.soak) for name in names]


def write(state: Path, *, wide: bool = False) -> list[str]:
    """Write a log with poison in it; give the ids of the events that are poisonous. `wide` entries
    have more fields than can be cut."""
    worst: dict[str, Json] = {"said": LARGE}
    if wide:
        worst = {f"{POISON.decode()}{number}": number for number in range(400)}

    async def main() -> None:
        async with opened(state) as store:
            await store.note("bench", worst)
            recorder = await begin(store, "call-1")
            for number in range(60):
                is_poison = number in (20, 40)
                detail = LARGE if is_poison and not wide else f"n{number}"
                recorder.tell([Denied(wall=Wall.SYSCALL, name="n", detail=detail, rule="r")])
                await store.note("bench", worst if is_poison and wide else {"number": number})
            await recorder.finish(make_finished())
            await store.note("bench", worst)

    asyncio.run(main())
    poisonous = [event for event in events_of(state, "ocsf") if POISON in event.data]
    assert len({event.index for event in poisonous}) == 4
    assert len(poisonous) == (4 if wide else 6)
    return [event.uid for event in poisonous]


def export(state: Path, ordered: Order, count: int) -> None:
    """Have the log exported: the cursor gets to its end, poison or not."""
    with Host(state, [ordered]) as host:
        wait_until(host, lambda: host.status().get("index", 0) == count)


def again(state: Path, ordered: Order) -> Outcome:
    """Send all dead letters again."""

    async def main() -> Outcome:
        store, sink = Store.open(state), make_sink(ordered)
        try:
            made_by = make_format(ordered.made_by, SOURCE)
            return await redeliver(letters_of(state), None, Direct(store.outlet), made_by, sink)
        finally:
            await sink.close()
            await store.close()

    return asyncio.run(main())


def letters_of(state: Path) -> Letters:
    return Letters(state / "export" / "chaos.dead")


def hold(state: Path, there: Place, poisonous: list[str], why: str) -> list[str]:
    """Hold that all but poison arrived in order, and that this waits; give all ids."""
    wanted = [event.uid for event in events_of(state, "ocsf")]
    waiting = letters_of(state).waiting()
    assert sorted(letter.uid for letter in waiting) == sorted(poisonous)
    for letter in waiting:
        assert letter.index == int(letter.uid.partition("-")[0])
        assert why in letter.why
    arrive(there, [uid for uid in wanted if uid not in poisonous])
    return wanted


def arrive(there: Place, wanted: list[str]) -> None:
    wait_until(None, lambda: set(there.received()) >= set(wanted))
    assert list(dict.fromkeys(there.received())) == wanted


@pytest.mark.parametrize("name", some(BY_SIZE, "tls", "kafka"))
def test_what_is_too_large(name: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    poisonous = write(state, wide=True)
    with place(name, tmp_path / "place", 0) as there:
        room = there.options
        there.options = replace(room, **{BY_SIZE[name]: ROOM})
        export(state, small := order(there), 124)
        wanted = hold(state, there, poisonous, "bytes")
        assert len(again(state, small).refused) == len(poisonous)
        hold(state, there, poisonous, "bytes")
        there.options = room
        outcome = again(state, order(there))
        assert sorted(outcome.delivered) == sorted(poisonous)
        assert letters_of(state).waiting() == []
        come_late(there, wanted, poisonous)


@pytest.mark.parametrize("name", some(BY_CONTENT, "otlp-grpc"))
def test_what_is_refused_for_ever(name: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    poisonous = write(state)
    with place(name, tmp_path / "place", 0) as there:
        assert isinstance(there, Program)
        flag = there.receiver.lines_path.with_suffix(".poison")
        flag.touch()
        export(state, ordered := order(there), 124)
        wanted = hold(state, there, poisonous, "")
        assert len(again(state, ordered).refused) == len(poisonous)
        flag.unlink()
        assert sorted(again(state, ordered).delivered) == sorted(poisonous)
        assert letters_of(state).waiting() == []
        come_late(there, wanted, poisonous)


@pytest.mark.soak
def test_what_no_table_can_hold(tmp_path: Path) -> None:
    """A lake whose format is not OCSF refuses everything; with the right one all is delivered."""
    state = tmp_path / "state"
    write(state)
    with place("s3", tmp_path / "place", 0) as there:
        lines = there.options
        lake = SecurityLake(source="stockade", region="eu-north-1", account="123456789012")
        there.options = replace(lines, layout=lake)
        export(state, order(there, "cef"), 124)
        wanted = [event.uid for event in events_of(state, "ocsf")]
        waiting = letters_of(state).waiting()
        assert sorted(letter.uid for letter in waiting) == sorted(wanted)
        assert all("an event is no JSON" in letter.why for letter in waiting)
        there.options = lines
        assert len(again(state, order(there)).delivered) == len(wanted)
        assert set(there.received()) == set(wanted)


def come_late(there: Place, wanted: list[str], late: list[str]) -> None:
    """Hold that what was late came after all else, in the order of the log."""
    arrive(there, [uid for uid in wanted if uid not in late] + late)
