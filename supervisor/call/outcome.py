"""How a call ended. One closed union; every call has exactly one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

KIBI = 1024
EXIT_TIMED_OUT = 124
EXIT_NOT_RUN = 125
EXIT_SIGNAL_BASE = 128
SIGKILL = 9


class LimitKind(enum.StrEnum):
    """What a limit bounds. Times are in milliseconds, sizes in bytes."""

    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"
    PIDS = "pids"
    OUTPUT = "output"
    DISK = "disk"
    INODES = "inodes"
    EGRESS = "egress"


_MILLISECONDS = frozenset({LimitKind.WALL, LimitKind.CPU})
_BYTES = frozenset({LimitKind.MEMORY, LimitKind.OUTPUT, LimitKind.DISK, LimitKind.EGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The program ended by itself with `code`."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signaled:
    """A signal that the daemon did not send ended the program."""

    signal: int
    core_dumped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The wall-clock limit was reached."""

    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """The OOM killer struck in the call's cgroup."""

    limit_bytes: int
    peak_bytes: int
    kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitExceeded:
    """Another limit was reached; `subject` is the mount of DISK and INODES."""

    limit: LimitKind
    used: int
    allowed: int
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Somebody stopped the call; `reason` is SIGNAL, DISCONNECTED, SHUTDOWN or
    SYSCALL_KILL."""

    by: str
    reason: str
    signal: int = SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The call could not be run under its walls, or not be recorded."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The daemon died while the call lived."""

    message: str


Outcome = (
    Exited | Signaled | TimedOut | OutOfMemory | LimitExceeded | Stopped | Failed | Interrupted
)

KINDS: dict[type[object], str] = {
    Exited: "exited",
    Signaled: "signaled",
    TimedOut: "timed_out",
    OutOfMemory: "out_of_memory",
    LimitExceeded: "limit_exceeded",
    Stopped: "stopped",
    Failed: "failed",
    Interrupted: "interrupted",
}
"""Outcome → the name that the record, the metrics and the wire use."""


def kind(outcome: Outcome) -> str:
    """Give the outcome's name, as in the record."""
    return KINDS[type(outcome)]


def exit_code(outcome: Outcome) -> int:
    """Give the exit code of `stockade run`: the program's own, 124 timed out, 125 not run,
    128+n killed by signal n (also by a limit)."""
    match outcome:
        case Exited(code=code):
            return code
        case Signaled(signal=signal) | Stopped(signal=signal):
            return EXIT_SIGNAL_BASE + signal
        case TimedOut():
            return EXIT_TIMED_OUT
        case OutOfMemory() | LimitExceeded():
            return EXIT_SIGNAL_BASE + SIGKILL
        case Failed() | Interrupted():
            return EXIT_NOT_RUN


def amount(limit: str, value: int) -> str:
    """Give what a limit counts with its unit, for people: `1.011 s`, `512 MiB`, `64`.

    `limit` is the name of a LimitKind; the value of one that is not known here stays bare.
    """
    if limit in _MILLISECONDS:
        return f"{_decimal(value / 1000)} s"
    if limit not in _BYTES:
        return str(value)
    for unit, factor in (("GiB", KIBI**3), ("MiB", KIBI**2), ("KiB", KIBI)):
        if value >= factor:
            return f"{_decimal(value / factor)} {unit}"
    return f"{value} bytes"


def describe(outcome: Outcome, *, started: bool = False) -> str:
    """Say in words how a call ended, as the rest of a sentence that begins with the call.

    `started` says whether its start is on record: what failed then has ended a program that ran.
    """
    match outcome:
        case Exited(code=code):
            return f"exited with {code}"
        case Signaled(signal=signal):
            return f"was ended by signal {signal}"
        case TimedOut(limit_s=limit_s):
            return f"timed out after {_decimal(limit_s)} s"
        case OutOfMemory(limit_bytes=allowed, peak_bytes=peak):
            used_text, allowed_text = (amount(LimitKind.MEMORY, n) for n in (peak, allowed))
            return f"ran out of memory: {used_text} used, {allowed_text} allowed"
        case LimitExceeded(limit=limit, used=used, allowed=allowed, subject=subject):
            where = f" on {subject}" if subject else ""
            used_text, allowed_text = amount(limit, used), amount(limit, allowed)
            return f"reached its {limit} limit{where}: {used_text} used, {allowed_text} allowed"
        case Stopped(by=by, reason=reason, signal=signal):
            return f"was stopped by {by} ({reason}, signal {signal})"
        case Failed(reason=reason, message=message):
            return f"{'was ended' if started else 'did not run'}: {message} [{reason}]"
        case Interrupted(message=message):
            return f"was interrupted: {message}"


def _decimal(value: float) -> str:
    """Give at most three decimals and never an exponent."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
