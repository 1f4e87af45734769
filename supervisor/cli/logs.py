"""The daemon's log: lines for people, JSON for programs, fields for systemd's journal.

What others chose stands in messages: names, errors of receivers, what a program said. So no message
begins a line, and none moves a terminal's cursor: controls are escapes, and what has several lines,
as a traceback has, is indented.

Under systemd the log is the journal's: without `--log-json` each message is an entry with fields of
its own, with it a line of JSON, whose priority goes ahead of it as sd-daemon(3) has it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from supervisor.call.about import about
from supervisor.call.safe import safe

SOCKET = Path("/run/systemd/journal/socket")
STREAM = "JOURNAL_STREAM"
IDENTIFIER = "stockade"
INDENT = "    "
PRIORITIES = (
    (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6),
)  # fmt: skip
DEBUG_PRIORITY = 7


def set_up(level: str, *, as_json: bool, stream: TextIO | None = None) -> bool:
    """Write the log to `stream`, standard error by default, or to the journal that has it; say
    whether programs read it, so that whatever is said has to be a line of it."""
    stream = stream or sys.stderr
    journal = is_journal(os.environ.get(STREAM, ""), stream)
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(as_json=as_json, prefixed=journal))
    if journal and not as_json:
        handler = JournalHandler(SOCKET, instead=handler)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    return as_json or journal


def is_journal(told: str, stream: TextIO) -> bool:
    """Say whether a stream is the one that systemd connected with the journal: `told` is what it
    left in $JOURNAL_STREAM, see systemd.exec(5)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> int:
    """Give syslog's number for a level of `logging`."""
    return next((number for least, number in PRIORITIES if level >= least), DEBUG_PRIORITY)


class Lines(logging.Formatter):
    """A line each: time, level, logger and message, and a call that the message does not name; then
    a traceback, indented."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        message = message_of(record)
        call = about(record).call
        named = f" (call {call})" if call and call not in message else ""
        begin = f"{moment(self, record)} {record.levelname} {record.name}: {message}{named}"
        return "\n".join((begin, *(INDENT + line for line in traceback_of(self, record))))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger and message; call and trace_id where it is about
    a call; exception, a traceback, where there is one."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        body = {
            "time": moment(self, record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        subject = about(record)
        if subject.call:
            body["call"] = subject.call
        if subject.trace:
            body["trace_id"] = subject.trace
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body)  # in ASCII: all else is an escape


class Prefixed(logging.Formatter):
    """Puts the priority ahead of each line that another formatter gives."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Give the lines."""
        begin = f"<{priority(record.levelno)}>"
        return "\n".join(begin + line for line in self._inner.format(record).split("\n"))


class JournalHandler(logging.Handler):
    """Makes each message an entry of the journal, with fields. Where the journal cannot be had,
    `instead` has it."""

    def __init__(self, path: Path, instead: logging.Handler) -> None:
        super().__init__()
        self._path = path
        self._instead = instead
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message; the caller is never held up by the journal."""
        try:
            self._connected().send(self._entry(record), socket.MSG_DONTWAIT)
        except OSError:
            self.close_socket()
            self._instead.handle(record)
        except Exception:  # noqa: BLE001 (as every handler of `logging` does it)
            self.handleError(record)

    def close_socket(self) -> None:
        """Close the socket; the next message opens another."""
        made, self._socket = self._socket, None
        if made is not None:
            made.close()

    def close(self) -> None:
        """Close the handler."""
        self.close_socket()
        super().close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                made.connect(str(self._path))
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _entry(self, record: logging.LogRecord) -> bytes:
        from supervisor.export.sinks.journald import field

        subject = about(record)
        fields = {
            "MESSAGE": "\n".join((message_of(record), *traceback_of(_PLAIN, record))),
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "STOCKADE_CALL": subject.call,
            "TRACE_ID": subject.trace,
        }
        return b"".join(
            field(name, value.encode("utf-8", "replace")) for name, value in fields.items() if value
        )


_PLAIN = logging.Formatter()


def moment(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Give the time of a message, in UTC and to the millisecond (RFC 3339)."""
    return f"{formatter.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"


def in_one_line(error: Exception) -> str:
    """Give what an error says, its hint too, in one line."""
    return "; ".join(line.strip() for line in str(error).splitlines())


def message_of(record: logging.LogRecord) -> str:
    """Give a message in one line that is safe to print."""
    return safe(record.getMessage())


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Give the lines of a message's traceback, each safe to print; none where it has none."""
    if not record.exc_info:
        return []
    return [safe(line) for line in formatter.formatException(record.exc_info).split("\n")]


def _formatter(*, as_json: bool, prefixed: bool) -> logging.Formatter:
    made = JsonLines() if as_json else Lines()
    return Prefixed(made) if prefixed else made
