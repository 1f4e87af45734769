"""Events for the tests of sinks, and what a pump does with them, without its waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence

from supervisor.export.event import Event
from supervisor.export.sink import Refused, Sink, SinkError

TRIES_MAX = 200
TIME_NS = 1_795_748_400_123_456_789


def event(index: int, *, pad: int = 0, number: int = 0, last: bool = True) -> Event:
    """Make one; its uid is in its data, too."""
    uid = f"{index}-{index:016x}-{number}"
    data = {"uid": uid, "index": index, "text": 'a "quoted" \\ line\n|=' + "x" * pad}
    return Event(
        uid=uid, index=index, last=last, time_ns=TIME_NS + index * 10**6, kind="output",
        severity=1, class_uid=6003, data=json.dumps(data).encode(),
    )  # fmt: skip


def events(count: int, *, pad: int = 0) -> list[Event]:
    """Make some, in order."""
    return [event(index, pad=pad) for index in range(count)]


async def deliver(sink: Sink, sent: Sequence[Event], *, size: int) -> tuple[list[str], int]:
    """Send all in batches until they are taken; give the uids of dead letters, and how often a
    batch was not taken."""
    dead: list[str] = []
    failed = 0
    for begin in range(0, len(sent), size):
        waiting = [list(sent[begin : begin + size])]
        tries = 0
        while waiting:
            batch = waiting[0]
            try:
                rejected = await sink.send(batch)
            except SinkError:
                failed += 1
                tries += 1
                assert tries < TRIES_MAX, "it never takes it"
                await asyncio.sleep(0.01)
            except Refused:
                if len(batch) == 1:
                    dead.append(batch[0].uid)
                    waiting.pop(0)
                else:
                    waiting[:1] = [[one] for one in batch]
            else:
                dead += [batch[one.position].uid for one in rejected]
                waiting.pop(0)
    return dead, failed


def firsts(received: Iterable[str]) -> list[str]:
    """Give what arrived, each once, in the order of first arrivals."""
    return list(dict.fromkeys(received))


def uids(sent: Iterable[Event]) -> list[str]:
    """Give the uids of events."""
    return [one.uid for one in sent]
