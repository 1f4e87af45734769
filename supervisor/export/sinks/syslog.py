"""Syslog over TLS: RFC 5424 messages, each with its length before it (RFC 5425).

Nobody says that a message has come. What is promised instead:

- A batch counts as sent once the other side's kernel has acknowledged every byte and the connection
  is still open. A new connection has to stand for `proof_s` first, so that a server that refuses
  our certificate after the handshake is not taken for one that listens.
- The last messages that counted (`window_events`, `window_bytes`) are kept, and sent again, first
  of all, over each new connection: the receiver has each of them once or more, and sees them in
  order for the first time. So a receiver that dies, is killed or is restarted loses none, where
  what it had taken and not put away was no more than the window.
- That holds for a receiver that ends while nothing is sent, too: the window is sent again by
  itself, after a second, and then after twice as long each time until something new was sent.

- A message may not have arrived (`trails`) until the connection has stood for `held_s` after the
  other side's kernel had it. Until then the cursor stays behind it, so that a daemon that is killed
  together with the receiver sends it again.

What is not promised: what was more than the window (a receiver with a long queue in its memory);
what the receiver, alive, throws away; and, where this process ends as well, what a receiver had not
put away after `held_s`, stopped as it was, say. Whoever needs that takes RELP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.audit.frames import count_controls
from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.message import Messages, lines
from supervisor.export.sinks.wire import Peer, Wire, WireError

AGAIN_FIRST_S, AGAIN_MAX_S = 1.0, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogOptions:
    """`host` is the host of the record; `event_bytes_max` is without the header, which has 500
    bytes at most: RFC 5425 has receivers take 8192 in all, and some cut what is longer in two."""

    peer: Peer
    host: str
    facility: int
    bom: bool = False
    event_bytes_max: int = 7600
    window_events: int = 65_536
    window_bytes: int = 32 * 1024 * 1024
    proof_s: float = 1.0
    held_s: float = 5.0

    def __post_init__(self) -> None:
        if self.window_events < 1 or self.window_bytes < 1:
            raise ValueError("a window that keeps nothing")
        if self.proof_s < 0 or self.held_s <= 0:
            raise ValueError("a connection that proves nothing by standing")


class SyslogSink:
    """The sink; see above for what `send` means. Errors are those of `Sink`."""

    def __init__(self, options: SyslogOptions) -> None:
        self._options = options
        self._messages = Messages(facility=options.facility, host=options.host, bom=options.bom)
        self._window = Window(options.window_events, options.window_bytes, options.held_s)
        self._wire: Wire | None = None
        self._busy = asyncio.Lock()
        self._tender: asyncio.Task[None] | None = None
        self._again_s = AGAIN_FIRST_S
        self.resent = 0
        """Messages that were sent again."""

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch after what has to be sent again; return once it counts as sent.

        Raises:
            SinkError: there is nobody, or not any more, or who is there takes nothing.
        """
        frames = [frame(self._messages.head(event), event.data) for event in batch]
        data, rejected = b"".join(frames), list[Rejected]()
        # What stands around events has no control character.
        if count_controls(data) or max(map(len, frames), default=0) > self._options.event_bytes_max:
            good, rejected = lines(batch, self._options.event_bytes_max)
            frames = [frame(self._messages.head(event), event.data) for event in good]
            data = b"".join(frames)
        if not frames:
            return rejected
        try:
            async with self._busy:
                wire = await self._connected()
                await wire.write(data)
                await wire.settled()
                self._window.keep(frames, time.monotonic())
                self._again_s = AGAIN_FIRST_S
        except WireError as error:
            self._drop()
            raise SinkError(str(error)) from None
        except BaseException:
            self._drop()  # half a message may have gone: what followed would be read as its end
            raise
        if self._tender is None:
            self._tender = asyncio.create_task(self._keep_up(), name="export syslog")
        return rejected

    def trails(self) -> int:
        """Give how many of the last messages have not been out long enough to count for good."""
        if self._wire is not None and self._wire.stands:
            self._window.prove(time.monotonic())
        return self._window.unproven

    async def close(self) -> None:
        """Send nothing more, and part with a close_notify."""
        tender, self._tender = self._tender, None
        if tender is not None:
            tender.cancel()
            await asyncio.wait([tender])
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _connected(self) -> Wire:
        """Give the connection; where it is a new one, the window went over it and it was proven."""
        if self._wire is not None and not self._wire.over.is_set():
            return self._wire
        self._drop()
        wire = self._wire = await Wire.open(self._options.peer)
        for part in self._window.parts():
            await wire.write(part)
        self.resent += len(self._window)
        await wire.settled()
        await wire.alive_for(self._options.proof_s)
        self._window.renew(time.monotonic())
        return wire

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        self._window.doubt()
        if wire is not None:
            wire.abort()

    async def _keep_up(self) -> None:
        """Send the window again where the connection ends while nothing is sent."""
        while True:
            wire = self._wire
            if wire is not None:
                await wire.over.wait()
            await asyncio.sleep(self._again_s)
            async with self._busy:
                if self._wire is not wire:
                    continue
                self._again_s = min(2 * self._again_s, AGAIN_MAX_S)
                try:
                    await self._connected()
                except WireError:
                    self._drop()
                except BaseException:
                    self._drop()
                    raise


class Window:
    """The last messages that counted as sent, each in its frame. `unproven` of them are the last
    that have not been out for `held_s` over one connection."""

    def __init__(self, events_max: int, bytes_max: int, held_s: float) -> None:
        self._events_max, self._bytes_max, self._held_s = events_max, bytes_max, held_s
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._due: deque[tuple[float, int]] = deque()  # When how many more are proven.
        self._unproven = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def unproven(self) -> int:
        """Give how many are; what is too far back to be kept counts as proven."""
        return min(self._unproven, len(self._frames))

    def keep(self, frames: Sequence[bytes], now: float) -> None:
        """Add what was sent, and forget what is too far back."""
        self._frames.extend(frames)
        self._size += sum(map(len, frames))
        self._unproven += len(frames)
        self._due.append((now + self._held_s, len(frames)))
        while len(self._frames) > self._events_max or self._size > self._bytes_max:
            self._size -= len(self._frames.popleft())

    def prove(self, now: float) -> None:
        """Note that the connection stands until now."""
        while self._due and self._due[0][0] <= now:
            self._unproven -= self._due.popleft()[1]

    def doubt(self) -> None:
        """Note that the connection is over: what is not proven needs another."""
        self._unproven = self.unproven
        self._due.clear()

    def renew(self, now: float) -> None:
        """Note that all of it went over a new connection."""
        self._unproven = self.unproven
        self._due.clear()
        self._due.append((now + self._held_s, self._unproven))

    def parts(self, part_events: int = 256) -> Sequence[bytes]:
        """Give all of it, oldest first, in parts."""
        frames = list(self._frames)
        return [
            b"".join(frames[at : at + part_events]) for at in range(0, len(frames), part_events)
        ]


def frame(head: bytes, data: bytes) -> bytes:
    """Put a message's length before it (RFC 5425, section 4.3)."""
    return b"%d %s" % (len(head) + len(data), head) + data
