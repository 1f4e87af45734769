"""The record as the events that a caller saw."""

from __future__ import annotations

import asyncio
from pathlib import Path

from supervisor.call.events import Accepted, CallEvent, Denied, Lost, Output, Wall
from supervisor.call.types import Stream
from supervisor.profile.model import Capture
from tests.support.records import FLOW, WATCHED, begin, make_finished, make_profile, opened


def test_attaching_later_gives_what_was_delivered(tmp_path: Path) -> None:
    async def scenario() -> None:
        profile = make_profile(stdout=Capture(mode="head", bytes_max=5))
        async with opened(tmp_path) as store:
            recorder = await begin(store, profile=profile)
            delivered: list[CallEvent] = [recorder.started(0.25)]
            recorder.stdin(b"not an event")
            delivered += recorder.output(Stream.STDOUT, b"hello, world")
            delivered.extend(recorder.tell([Denied(wall=Wall.SYSCALL, name="mount")]))
            recorder.signalled("tester", 15, "not an event")
            delivered += recorder.output(Stream.STDOUT, b"more")
            delivered += recorder.output(Stream.STDERR, b"\xff\x00")
            delivered.extend(recorder.tell([WATCHED]))
            delivered.extend(recorder.tell([FLOW]))
            delivered.append(recorder.lost(Lost(what="denial", count=1, reason="full")))
            delivered.append(await recorder.finish(make_finished()))
            replayed = list(store.events("call-1"))

        accepted = Accepted(profile=profile.name, profile_digest=profile.digest, mode=profile.mode)
        assert replayed[0].event == accepted
        assert replayed[0].sequence == 1
        expected = [_as_on_record(event) for event in delivered if not _repeats(event)]
        assert replayed[1:] == expected

    asyncio.run(scenario())


def _repeats(event: CallEvent) -> bool:
    """Say whether an event had no entry of its own: output past the cap, after the first."""
    return isinstance(event.event, Output) and event.event.data == b"more"


def _as_on_record(event: CallEvent) -> CallEvent:
    if isinstance(event.event, Output) and event.event.truncated:
        output = Output(stream=Stream.STDOUT, data=b"", offset=event.event.offset, truncated=True)
        return CallEvent(
            call_id=event.call_id, sequence=event.sequence, time_ns=event.time_ns, event=output
        )
    return event


def test_attaching_from_a_sequence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            for number in range(5):
                recorder.output(Stream.STDOUT, b"%d" % number)
            assert [event.sequence for event in store.events("call-1", 4)] == [4, 5, 6]
            assert list(store.events("call-1", 7)) == []
            await recorder.finish(make_finished())

    asyncio.run(scenario())
