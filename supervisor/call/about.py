"""Which call a line of the log is about. Whoever runs a call says so once for its task, and what is
logged in that task has the call and the trace of its caller; elsewhere a line names its call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from logging import LogRecord

_ATTRIBUTE = "about_call"


@dataclass(frozen=True, slots=True)
class About:
    """A call, and its caller's trace id in 32 hexadecimal digits; each "" where there is none."""

    call: str = ""
    trace: str = ""


NOTHING = About()

_current: ContextVar[About] = ContextVar("about", default=NOTHING)


def begin_call(call_id: str, traceparent: str = "") -> None:
    """Say that what this task logs from now on is about a call; `traceparent` is the header of W3C
    Trace Context, as it was checked before, or empty."""
    _current.set(About(call_id, traceparent.split("-")[1] if traceparent else ""))


def of_call(call_id: str) -> dict[str, str]:
    """Give what a logger is to take as `extra` for a line about a call, in any thread."""
    return {_ATTRIBUTE: call_id}


def about(record: LogRecord) -> About:
    """Give what a line is about, in the thread that logs it."""
    current = _current.get()
    named = getattr(record, _ATTRIBUTE, "")
    return current if named in ("", current.call) else About(named)
