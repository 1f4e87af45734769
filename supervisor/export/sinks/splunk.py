"""Splunk's HTTP Event Collector (HEC), with and without its acknowledgement by indexers.

Without it, an answer of 200 says that events were received, not that they are indexed: what Splunk
loses then is lost. With it, an answer has an `ackId`, and events are taken once that is true. The
collector says false for an id that it does not know, too, so after `ack_s` the batch is sent again.

Where HEC finds an event invalid it names the first such one, and what it does with those before it
is not documented. So nothing is taken from that answer but where to cut: those before are sent
again, then the named one alone, then the rest. An event is rejected only where it was alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson

from supervisor.export.event import Event
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.sinks.http import Answer, Endpoint, Poster, judge, parts

EVENT_PATH, ACK_PATH = "/services/collector/event", "/services/collector/ack"
POLL_FIRST_S, POLL_MAX_S = 0.1, 5.0
MS = 10**6

INVALID = frozenset({5, 6, 12, 13, 15})
"""Codes of an answer of 400 that are about an event: no data, invalid format, no `event`, an empty
one, indexed fields. All others (index, channel, no acknowledgement) are the configuration's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplunkOptions:
    """`endpoint` is the collector's address without a path, `channel` a GUID of this sink's own.
    `index` is Splunk's: "" is the token's. With `text`, an event is no JSON and goes as a string.

    `ack_s` is how long to wait for indexers; None is without them. Behind a balancer, the question
    has to reach the host that took the events: it goes over the same connection while that holds.
    """

    endpoint: Endpoint
    token: bytes = field(repr=False)
    channel: UUID
    host: str
    source: str
    sourcetype: str
    index: str = ""
    text: bool = False
    ack_s: float | None
    body_bytes_max: int = 800_000
    packed: bool = False

    def __post_init__(self) -> None:
        if not self.token or not self.token.isascii() or self.token.split() != [self.token]:
            raise ValueError("a token of Splunk is one word of ASCII")
        if self.ack_s is not None and self.ack_s <= 0:
            raise ValueError("no time to wait for an acknowledgement")


class SplunkSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: SplunkOptions) -> None:
        self._options = options
        self._poster = Poster(options.endpoint, [options.token])
        meta = {"host": options.host, "source": options.source, "sourcetype": options.sourcetype}
        if options.index:
            meta["index"] = options.index
        self._meta = json.dumps(meta)[1:-1].encode()
        self._headers: dict[str, str] = {
            "authorization": "Splunk " + options.token.decode(),
            "content-type": "application/json",
            "x-splunk-request-channel": str(options.channel),
        }

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once it is received, or indexed where that is asked for.

        Raises:
            SinkError: it was not, and may be later.
        """
        rejected: list[Rejected] = []
        acks: list[int] = []
        lines = [self._line(event) for event in batch]
        for begin, end in parts(map(len, lines), self._options.body_bytes_max):
            await self._sift(lines, begin, end, rejected, acks)
        if self._options.ack_s is not None:
            await self._indexed(acks, self._options.ack_s)
        return rejected

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part."""
        await self._poster.close()

    async def _sift(
        self, lines: Sequence[bytes], begin: int, end: int, rejected: list[Rejected],
        acks: list[int],
    ) -> None:  # fmt: skip
        """Send [begin, end), in order, and find those that are never taken."""
        waiting = [(begin, end)]
        while waiting:
            begin, end = waiting.pop()
            answer = await self._post(EVENT_PATH, b"".join(lines[begin:end]), self._options.packed)
            never = refusal(answer)
            if never is None:
                if self._options.ack_s is not None:
                    acks.append(_ack_id(answer))
            elif end - begin == 1:
                rejected.append(Rejected(begin, never.why))
            else:
                waiting += reversed(_cuts(begin, end, never.number))

    async def _indexed(self, acks: Sequence[int], wait_s: float) -> None:
        """Wait until every id is true."""
        missing, pause, until = set(acks), POLL_FIRST_S, time.monotonic() + wait_s
        while missing:
            body = json.dumps({"acks": sorted(missing)}).encode()
            answer = await self._post(f"{ACK_PATH}?channel={self._options.channel}", body)
            judge_ack(answer)
            states = _object(answer).get("acks")
            if not isinstance(states, dict):
                raise SinkError("what it says of acknowledgements is none")
            missing = {one for one in missing if states.get(str(one)) is not True}
            left = until - time.monotonic()
            if missing and left <= 0:
                raise SinkError(f"not indexed, or not known any more, after {wait_s:g} s")
            if missing:
                await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, POLL_MAX_S)

    async def _post(self, path: str, body: bytes, packed: bool = False) -> Answer:
        return await self._poster.post(path, body, self._headers, packed=packed)

    def _line(self, event: Event) -> bytes:
        """Write an event for HEC: `fields` are indexed, `log_index` since `index` is Splunk's."""
        seconds, ms = divmod(event.time_ns // MS, 1000)
        data = orjson.dumps(event.data.decode()) if self._options.text else event.data
        return b'{"time":"%d.%03d",%b,"fields":{"uid":"%b","log_index":"%d"},"event":%b}\n' % (
            seconds, ms, self._meta, event.uid.encode(), event.index, data,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Never:
    """Why a body is never taken, and the first event at fault; None where that is not said."""

    why: str
    number: int | None


def refusal(answer: Answer) -> Never | None:
    """Read an answer to events; None is a yes.

    Raises:
        SinkError: neither yes nor never.
    """
    if answer.taken:
        # What stands between may say 200 to anything: only the collector says this.
        said = _object(answer)
        if said.get("code") != 0:
            raise SinkError(f"it answers {answer.status}, and not success: {answer.said}")
        return None
    if answer.status == 413:
        return Never("413: larger than it takes", None)
    if answer.status == 400:
        said = _object(answer)
        if said.get("code") not in INVALID:
            raise SinkError(f"it answers 400: {answer.said}")
        number = said.get("invalid-event-number")
        return Never(f"400: {answer.said}", number if type(number) is int else None)
    judge_ack(answer)
    raise AssertionError("unreachable")


def judge_ack(answer: Answer) -> None:
    """As `judge`, where nothing that was sent can be at fault.

    Raises:
        SinkError: it is no yes.
    """
    try:
        judge(answer)
    except Refused as error:
        raise SinkError(error.why) from None


def _cuts(begin: int, end: int, number: int | None) -> list[tuple[int, int]]:
    """Cut around the event that is named, or in the middle where that says nothing."""
    if number is None or not 0 <= number < end - begin:
        middle = (begin + end) // 2
        return [(begin, middle), (middle, end)]
    at = begin + number
    return [cut for cut in ((begin, at), (at, at + 1), (at + 1, end)) if cut[0] < cut[1]]


def _ack_id(answer: Answer) -> int:
    number = _object(answer).get("ackId")
    if type(number) is not int:
        raise SinkError("it gives no ackId: the token is not set to acknowledge")
    return number


def _object(answer: Answer) -> dict[str, object]:
    if not answer.whole:
        raise SinkError("its answer is longer than any of HEC is")
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise SinkError(f"it answers {answer.status}, and not as HEC does: {answer.said}")
    return said
