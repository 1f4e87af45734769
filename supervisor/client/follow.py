"""Where one follower of a call stands, and what it does when its stream breaks. No I/O.

A call is begun with Execute, which may be repeated because it always carries a request id. From
the first event on, a broken stream is taken up again with Attach, one past the last sequence
that was seen. Both clients walk through this one class, so they cannot differ.

It must never deliver an event twice, and never try without an end: attempts count up until the
call moves on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from supervisor.call.events import (
    SLOW_SUBSCRIBER,
    CallEvent,
    Finished,
    KeepAlive,
    Lost,
    Output,
)
from supervisor.call.types import Stream
from supervisor.client.status import NO_ANSWER
from supervisor.errors import ShuttingDown, StockadeError, Unreachable
from supervisor.v1 import tool_pb2

JITTER_MIN = 0.5
jitter = random.SystemRandom().random
"""A number from 0 to 1; many clients of one daemon must not come back at the same moment."""

FAIL_AT_ONCE = frozenset({"SOCKET_MISSING", "SOCKET_REFUSED", "SOCKET_DENIED", "TLS_HANDSHAKE"})
"""Reasons that nobody is there at all, or another: a client that was never connected does not
wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently a broken connection is tried again.

    The n-th attempt waits between half and all of `delay_s` · 2ⁿ⁻¹, at most `delay_max_s`.
    """

    attempts_max: int = 10
    delay_s: float = 0.05
    delay_max_s: float = 2.0

    def delay(self, attempt: int, jitter: Callable[[], float]) -> float:
        """Give the seconds to wait before attempt number `attempt`, from 1."""
        delay = min(self.delay_max_s, self.delay_s * 2 ** (attempt - 1))
        return float(delay * (JITTER_MIN + (1 - JITTER_MIN) * jitter()))


DEFAULT_RETRY = Retry()


def worth_retrying(error: StockadeError, *, connected: bool) -> bool:
    """Say whether the same request may succeed soon: the daemon restarts or the line broke."""
    if isinstance(error, ShuttingDown):
        return True
    return isinstance(error, Unreachable) and (connected or error.reason not in FAIL_AT_ONCE)


def telling(first: StockadeError | None, error: StockadeError) -> StockadeError:
    """Give the one of a former and the latest failure that says more.

    A daemon that said why it takes nothing more says more than that it is gone since; and whatever
    ended an attempt says more than that the last one ran out of time.
    """
    if first is None:
        return error
    refused = isinstance(first, ShuttingDown) and isinstance(error, Unreachable)
    return first if refused or error.reason == NO_ANSWER else error


class Follower:
    """The place of one follower in one call's events."""

    def __init__(
        self,
        *,
        execute: tool_pb2.ExecuteRequest | None = None,
        call_id: str = "",
        from_sequence: int = 1,
        retry: Retry,
        connected: bool = False,
        jitter: Callable[[], float] = jitter,
    ) -> None:
        self.call_id = call_id
        self.finished = False
        self.stale = False
        self._execute = execute
        self._last = max(from_sequence, 1) - 1
        self._floor = 0
        self._offsets: dict[Stream, int] = {}
        self._retry = retry
        self._attempts = 0
        self._telling: StockadeError | None = None
        self._connected = connected
        self._seen = False
        self._jitter = jitter

    def request(self) -> tool_pb2.ExecuteRequest | tool_pb2.AttachRequest:
        """Give what to send in order to follow the call from here on."""
        self.stale = False
        if not self.call_id and self._execute is not None:
            return self._execute
        return tool_pb2.AttachRequest(call_id=self.call_id, from_sequence=self._last + 1)

    def take(self, event: CallEvent) -> CallEvent | None:
        """Note an event and give it back, or None where it is not for the caller.

        Sets `stale` where the daemon says that this stream missed something: open it again.
        """
        self.call_id = self.call_id or event.call_id
        self._connected = self._seen = True
        kind = event.event
        if isinstance(kind, Lost) and kind.reason == SLOW_SUBSCRIBER:
            self.stale = True
            return None
        if isinstance(kind, Output):
            return self._take_output(event, kind)
        if event.sequence <= self._floor and not isinstance(kind, KeepAlive):
            return None
        self._advance(event.sequence)
        self.finished = isinstance(kind, Finished)
        return event

    def broken(self, error: StockadeError | None) -> float:
        """Give the seconds to wait before the stream is opened again; `error` is None where it
        ended without Finished.

        Raises:
            StockadeError: `error`, or a former one that says more, where trying again is no use or
                was tried often enough; its metadata names the call, as `call_id`, where the daemon
                has told of it.
        """
        if error is None:
            error = Unreachable("STREAM_ENDED", "the stream ended before the call did")
        if self._seen:
            error.metadata.setdefault("call_id", self.call_id)
        self._telling = telling(self._telling, error)
        if not worth_retrying(error, connected=self._connected or self._attempts > 0):
            raise self._telling
        self._attempts += 1
        if self._attempts > self._retry.attempts_max:
            raise self._telling
        self._floor = self._last
        return self._retry.delay(self._attempts, self._jitter)

    def _take_output(self, event: CallEvent, output: Output) -> CallEvent | None:
        """Drop what was delivered before; a resumed stream may overlap by parts of a chunk."""
        self._advance(event.sequence)
        end = output.end
        known = self._offsets.get(output.stream, output.offset)
        self._offsets[output.stream] = max(known, end)
        if output.offset >= known:
            return event
        if end <= known:
            return None
        if output.covered:  # a mark stays whole: the beginning of what it is for was delivered
            rest = replace(output, offset=known, covered=end - known)
            return replace(event, event=rest)
        rest = replace(output, data=output.data[known - output.offset :], offset=known)
        return replace(event, event=rest)

    def _advance(self, sequence: int) -> None:
        if sequence > self._last:
            self._last = sequence
            self._attempts = 0
            self._telling = None
