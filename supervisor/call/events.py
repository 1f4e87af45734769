"""What happens in a call, as one closed union of values.

An event that is on record carries the record's own sequence within the call; one that has no
entry (keep-alive, output past the recording's cap) repeats the last.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from supervisor.call.outcome import Outcome
from supervisor.call.types import OutputFile, SkippedFile, Stream, StreamSummary, Usage

SLOW_SUBSCRIBER = "SLOW_SUBSCRIBER"
"""`Lost.reason` towards a follower that read too slowly: what it missed is on record, and it gets
it with Attach from the last sequence that it has seen."""


OTHER_ARGUMENTS = ", but not with these arguments"
"""How the rule of a denial ends where the system call is allowed with other arguments."""

CELL_PATH = "/.stockade/cell"
"""Where the sandbox's own init lies in it: it runs in every call, and is nobody's program."""


class Wall(enum.StrEnum):
    """Which wall held."""

    SYSCALL = "syscall"
    LIMIT = "limit"
    NETWORK = "network"
    PROGRAM = "program"
    KERNEL = "kernel"
    """What the guard denies besides programs: mounts, other processes, user namespaces, bpf(2)."""


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
    """Bytes of a stream at `offset`; `truncated` where they are not on record.

    Where `covered` is not 0, `data` is the mark of a secret of that many bytes, as on record.
    """

    stream: Stream
    data: bytes
    offset: int
    truncated: bool = False
    covered: int = 0

    @property
    def end(self) -> int:
        """Give where they end in the stream."""
        return self.offset + (self.covered or len(self.data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """The call's terminal was given another size: what was written before is for the former."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A wall held, `count` times since it was told last: the first is told at once, its repeats are
    folded. Counts add up to how often it was.

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
class ProgramStarted:
    """A process of the call was given a program; all of it is the kernel's word.

    `path` and `directory` are as the sandbox sees them; `argv` is the beginning of `argv_bytes`
    bytes, what is missing follows as `MoreArgv`. `cut` names what could not be told whole: "path",
    "directory", "argv". Process ids are the host's; `uid` and `gid` are the sandbox's own.
    """

    time_ns: int
    pid: int
    parent_pid: int
    uid: int
    gid: int
    path: bytes
    directory: bytes
    argv: tuple[bytes, ...]
    argv_bytes: int
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreArgv:
    """More of the argv of the program that `pid` was given last, from `offset` on, with NULs."""

    time_ns: int
    pid: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnded:
    """A process of the call ended: with `code`, or by `signal` where that is not 0."""

    time_ns: int
    pid: int
    parent_pid: int
    code: int
    signal: int
    cpu_user_s: float
    cpu_system_s: float
    memory_peak_bytes: int


ProcessEvent = ProgramStarted | MoreArgv | ProcessEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """What the call's processes did since the last of these, in the order of their numbers."""

    events: tuple[ProcessEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A system call was let through that the profile watches, `count` times since it was told last.
    Counts add up to how often it was made.

    The first of a kind has its arguments, process and program. Repeats have none of them, but that
    sockets stay apart by family, their first argument. `killed`: it is one that ends the call, the
    filter did not stop it, and its process was sent SIGKILL.
    """

    name: str
    arguments: tuple[int, ...] = ()
    detail: str = ""
    pid: int = 0
    program: bytes = b""
    count: int = 1
    rule: str = ""
    killed: bool = False


BROKER_DENIALS = frozenset({"dns", "dial", "tls", "http", "secret", "connect"})
"""`Denied.name` of what the broker denies, at `Wall.NETWORK`: a name, an address that one led to,
what was said on a connection, a secret on its way elsewhere, one connection more than allowed."""


class Verdict(enum.StrEnum):
    """How a flow ended: "closed" in order by both sides, "reset" by one of them, "failed" before it
    was connected, "denied" by a rule, "budget" at `limits.egress`, "stopped" with its call."""

    CLOSED = "closed"
    RESET = "reset"
    FAILED = "failed"
    DENIED = "denied"
    BUDGET = "budget"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A connection through the broker has ended.

    `name` is what the program asked for (a name, or an address under a `cidr:` rule), `address`
    what was dialled, "" where nothing was; `rule` is the rule's name, "" where there is none.
    `sent` is what the far side was sent, `received` what came back, in bytes. `reason` is empty
    where the verdict says all. `started_ns` is nanoseconds since the epoch. Process and program are
    those that connected.
    """

    name: str
    address: str
    port: int
    rule: str
    verdict: Verdict
    reason: str = ""
    sent: int = 0
    received: int = 0
    started_ns: int = 0
    duration_s: float = 0.0
    pid: int = 0
    program: bytes = b""


PROBE_EVENTS = "probe events"
FLOWS = "flow"
DAEMON_DIED = "DAEMON_DIED"
"""`Lost.reason` of what died with its daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something could not be recorded or delivered: `what` is "output", "denial", or "exec", "argv"
    or "exit" where the probes found no place for it, or its call has written all that it may of
    these; watched system calls are counted where they happen. "probe events" are those of a former
    daemon that are on no record: it died when it had read them, or its probes went. "flow" are
    connections through the broker, past what its call may write of these, or open when its daemon
    died. Where nobody knows how many, `count` is 0."""

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
    """The OUTCOME entry is durable; `record` is its leaf hash in hexadecimal.

    `receipt` shows that it is in the log (C2SP tlog-proof). It is told once, to who follows a call
    to its end, and is empty otherwise.
    """

    outcome: Outcome
    timeline: Timeline
    streams: tuple[StreamSummary, ...]
    outputs: tuple[OutputFile, ...]
    skipped: tuple[SkippedFile, ...]
    usage: Usage
    denials: int
    record: str = ""
    record_bytes: int = 0
    receipt: bytes = field(default=b"", compare=False)


Event = (
    Accepted
    | Started
    | Output
    | Resized
    | Denied
    | Processes
    | Watched
    | Flow
    | Lost
    | KeepAlive
    | Finished
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """An event with its place: `time_ns` is nanoseconds since the epoch."""

    call_id: str
    sequence: int
    time_ns: int
    event: Event
