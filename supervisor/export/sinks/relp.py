"""RELP: each message has its number, and is delivered once the other side has answered it.

    TXNR SP COMMAND SP DATALEN [SP DATA] LF         20 of these under way, say, and the answers
    TXNR SP "rsp" SP DATALEN SP CODE [SP TEXT] LF   to them: 200, or 500 for what is never taken

A batch is sent when each of its messages has its 200. What that means is the receiver's to say:
rsyslog answers when a message is in its queue, which lies in memory where it is not told otherwise
(`queue.type`), and is lost with it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.message import Messages, lines
from supervisor.export.sinks.wire import CLOSE_S, Peer, Wire, WireError

TXNR_MAX = 999_999_999
ANSWER_BYTES_MAX = 64 * 1024
HEADER_BYTES_MAX = 64
OFFERS = b"relp_version=0\nrelp_software=stockade\ncommands=syslog"
_HEADER = re.compile(rb"([0-9]{1,9}) ([A-Za-z]{1,32}) ([0-9]{1,9})(?=[ \n])")
_CODE = re.compile(rb"([0-9]{3})(?: ([^\n]*))?(?:\n|$)")
_OK, _NEVER = 200, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RelpOptions:
    """`host` is the host of the record; `event_bytes_max` is without the header, which has 500
    bytes at most: rsyslog cuts what is longer than its `maxMessageSize`, 8192 at first.
    `window_events` are under way without an answer."""

    peer: Peer
    host: str
    facility: int
    bom: bool = False
    event_bytes_max: int = 7600
    window_events: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.window_events <= 1 << 16:
            raise ValueError("a window is of 1 to 65536 events")


class Answer(NamedTuple):
    """What the other side said: the answer to `txnr`, or of its own accord, which is 0."""

    txnr: int
    command: bytes
    data: bytes


class RelpSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: RelpOptions) -> None:
        self._options = options
        self._messages = Messages(facility=options.facility, host=options.host, bom=options.bom)
        self._session: _Session | None = None

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once each message has its answer.

        Raises:
            SinkError: an answer did not come, or was neither yes nor never.
        """
        good, rejected = lines(batch, self._options.event_bytes_max)
        if not good:
            return rejected
        try:
            session = await self._opened()
            refused = await session.deliver(
                [self._messages.message(event) for event in good], self._options.window_events
            )
        except WireError as error:
            self._drop()
            raise SinkError(str(error)) from None
        except BaseException:
            self._drop()  # answers to what nobody waits for any more would come
            raise
        if not refused:
            return rejected
        gone = {one.position for one in rejected}
        places = [at for at in range(len(batch)) if at not in gone]
        return sorted([*rejected, *(Rejected(places[at], why) for at, why in refused)])

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Say that this is all, and part."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _opened(self) -> _Session:
        if self._session is not None and not self._session.over:
            return self._session
        self._drop()
        session = self._session = _Session(await Wire.open(self._options.peer, heeds=True))
        await session.begin()
        return session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abort()


class _Session:
    """One session: numbers from 1, and from 1 again past `TXNR_MAX`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._answers = Answers()
        self._txnr = 0

    @property
    def over(self) -> bool:
        return self._wire.over.is_set()

    async def begin(self) -> None:
        """Open it, and see that the other side takes messages.

        Raises:
            WireError: it does not.
        """
        txnr = self._next()
        await self._wire.write(relp_frame(txnr, b"open", OFFERS))
        while True:
            for answer in await self._heard():
                if answer.txnr != txnr:
                    raise WireError(f"an answer to {answer.txnr}, which was not asked")
                code, text = code_of(answer)
                if code != _OK:
                    raise WireError(f"no session with it: {code} {text}")
                if not _takes_syslog(answer.data):
                    raise WireError("it does not take the command syslog")
                return

    async def deliver(self, messages: Sequence[bytes], window: int) -> list[tuple[int, str]]:
        """Send messages, and wait for all answers; give the places of those that are never taken,
        with why.

        Raises:
            WireError: an answer is missing, or says something else.
        """
        waiting: dict[int, int] = {}
        refused: list[tuple[int, str]] = []
        at = 0
        while at < len(messages) or waiting:
            if len(waiting) <= window // 2 and at < len(messages):
                end = min(len(messages), at + window - len(waiting))
                frames = []
                for place in range(at, end):
                    txnr = self._next()
                    waiting[txnr] = place
                    frames.append(relp_frame(txnr, b"syslog", messages[place]))
                at = end
                await self._wire.write(b"".join(frames))
            for answer in await self._heard():
                if answer.txnr not in waiting:
                    raise WireError(f"an answer to {answer.txnr}, which was not asked")
                place = waiting.pop(answer.txnr)
                code, text = code_of(answer)
                if code >= _NEVER:
                    refused.append((place, f"{code} {text}"))
                elif code != _OK:
                    raise WireError(f"it answers {code} {text}")
        return refused

    async def close(self) -> None:
        """End the session in good order, where the other side does; raises nothing."""
        try:
            async with asyncio.timeout(CLOSE_S):
                # It may say that the session is over before we have looked at its answer.
                with contextlib.suppress(WireError):
                    txnr = self._next()
                    await self._wire.write(relp_frame(txnr, b"close"))
                    while all(answer.txnr != txnr for answer in await self._heard()):
                        continue
        except TimeoutError:
            self._wire.abort()
        await self._wire.close()

    def abort(self) -> None:
        self._wire.abort()

    async def _heard(self) -> list[Answer]:
        answers = self._answers.feed(await self._wire.read())
        if any(answer.command == b"serverclose" for answer in answers):
            raise WireError("the other side ends the session")
        return answers

    def _next(self) -> int:
        self._txnr = self._txnr % TXNR_MAX + 1
        return self._txnr


class Answers:
    """Reads what the other side says. No I/O."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Answer]:
        """Take what came; give the answers that are whole now.

        Raises:
            WireError: that is no RELP.
        """
        rest, at, answers = self._rest + data, 0, []
        while (found := _whole(rest, at)) is not None:
            answer, at = found
            answers.append(answer)
        self._rest = rest[at:]
        return answers


def _whole(data: bytes, at: int) -> tuple[Answer, int] | None:
    """Read the answer at a place; give it and where the next one begins."""
    header = _HEADER.match(data, at)
    if header is None:
        if len(data) - at > HEADER_BYTES_MAX:
            raise WireError("what it says is no RELP")
        return None
    size, begin = int(header[3]), header.end()
    if size > ANSWER_BYTES_MAX:
        raise WireError(f"an answer of {size} bytes")
    begin += data[begin : begin + 1] == b" "
    end = begin + size
    if len(data) <= end:
        return None
    if data[end : end + 1] != b"\n":
        raise WireError("what it says is no RELP: an answer is longer than it says")
    return Answer(int(header[1]), header[2], data[begin:end]), end + 1


def code_of(answer: Answer) -> tuple[int, str]:
    """Give code and text of an answer.

    Raises:
        WireError: it is none.
    """
    found = _CODE.match(answer.data)
    if answer.command != b"rsp" or found is None:
        raise WireError("what it says is no answer")
    return int(found[1]), (found[2] or b"")[:256].decode("utf-8", "replace")


def _takes_syslog(data: bytes) -> bool:
    for line in data.split(b"\n"):
        name, _, offered = line.partition(b"=")
        if name == b"commands":
            return b"syslog" in offered.split(b",")
    return False


def relp_frame(txnr: int, command: bytes, data: bytes = b"") -> bytes:
    """Give a frame as it is sent."""
    if not data:
        return b"%d %s 0\n" % (txnr, command)
    return b"%d %s %d %s\n" % (txnr, command, len(data), data)
