"""What happens in a call, as one closed union of values.

An event that is on record carries the record's own sequence within the call; one that has no
entry (keep-alive, output past the recording's cap) repeats the last.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from supervisor.call.outcome import Outcome
from supervisor.call.types import OutputFile, SkippedFile, Stream, StreamSummary, Usage

SLOW_SUBSCRIBER = "SLOW_SUBSCRIBER"
"""`Lost.reason` towards a follower that read too slowly: what it missed is on record, and it gets
it with Attach from the last sequence that it has seen."""


class Wall(enum.StrEnum):
    """Which wall held."""

    SYSCALL = "syscall"
    LIMIT = "limit"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The INTENT entry is durable."""

    profile: str
    profile_digest: str
    mode: str
    attached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The walls had been read back and the program was let go."""

    preparation_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Bytes of a stream at `offset`; `truncated` where they are not on record."""

    stream: Stream
    data: bytes
    offset: int
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A wall held; repeats are folded into `count`.

    `name` is the system call, limit or target; `rule` is the line of the profile that decided;
    `used` and `allowed` are for limits, in the limit's unit.
    """

    wall: Wall
    name: str
    arguments: tuple[int, ...] = ()
    detail: str = ""
    pid: int = 0
    program: bytes = b""
    count: int = 1
    rule: str = ""
    used: int = 0
    allowed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something could not be recorded or delivered: `what` is "output" or "denial"."""

    what: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """Nothing happened for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When the call entered each phase: nanoseconds since the epoch, 0 where not reached."""

    accepted_ns: int = 0
    preparing_ns: int = 0
    armed_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    destroyed_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The OUTCOME entry is durable; `record` is its leaf hash in hexadecimal."""

    outcome: Outcome
    timeline: Timeline
    streams: tuple[StreamSummary, ...]
    outputs: tuple[OutputFile, ...]
    skipped: tuple[SkippedFile, ...]
    usage: Usage
    denials: int
    record: str = ""
    record_bytes: int = 0


Event = Accepted | Started | Output | Denied | Lost | KeepAlive | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """An event with its place: `time_ns` is nanoseconds since the epoch."""

    call_id: str
    sequence: int
    time_ns: int
    event: Event
