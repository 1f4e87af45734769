"""Lines, JSON and entries of the journal: what they hold, and that nobody forges one."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.about import of_call
from supervisor.cli import logs
from supervisor.errors import HostError

HOSTILE = (
    "x\n2026-01-01T00:00:00.000Z CRITICAL stockade: forged\r<0>forged\x1b[2K\x1b[1Aforged"
    "\x9b31m\u202eforged\u2028forged\0\udcff"
)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def made(
    message: str = "a %s",
    *arguments: object,
    level: int = logging.ERROR,
    error: Exception | None = None,
    extra: dict[str, str] | None = None,
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.getLogger("stockade.x").makeRecord(
        "stockade.x", level, "/f.py", 7, message, arguments, info, "run", extra
    )


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_line() -> None:
    line = logs.Lines().format(made("a %s", "b"))
    date, level, name, message = line.split(" ", 3)
    assert date.endswith("Z") and date[10] == "T" and len(date) == 24
    assert (level, name, message) == ("ERROR", "stockade.x:", "a b")


def test_a_line_names_the_call_once() -> None:
    extra = of_call("0198")
    assert logs.Lines().format(made("call 0198: no", extra=extra)).endswith(": call 0198: no")
    assert logs.Lines().format(made("no", extra=extra)).endswith(": no (call 0198)")


def test_an_error_and_its_hint_in_one_line() -> None:
    error = HostError("ADDRESS_UNUSABLE", "it is taken", hint="use another")
    assert logs.in_one_line(error) == "it is taken [ADDRESS_UNUSABLE]; hint: use another"


def test_a_traceback_is_indented() -> None:
    line = logs.Lines().format(made("a", error=raised(HOSTILE)))
    first, *others = line.split("\n")
    assert first.endswith(": a")
    assert others[0] == "    Traceback (most recent call last):"
    assert all(other.startswith("    ") for other in others)


@pytest.mark.parametrize(
    "formatter", [logs.Lines(), logs.JsonLines(), logs.Prefixed(logs.JsonLines())], ids=str
)
def test_nobody_forges_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(made("it said %s", HOSTILE))
    assert line.isprintable()
    # Nor by what a receiver of gRPC's, say, made an exception of.
    for one in formatter.format(made("a", error=raised(HOSTILE))).split("\n")[1:]:
        assert one.isprintable() and one.startswith("    ")


def test_json() -> None:
    found = json.loads(logs.JsonLines().format(made("a %s", "b\n", error=raised("no\nway"))))
    assert found.keys() == {"time", "level", "logger", "message", "exception"}
    assert (found["level"], found["logger"], found["message"]) == ("error", "stockade.x", "a b\n")
    assert "ValueError: no\nway" in found["exception"]
    assert "exception" not in json.loads(logs.JsonLines().format(made("a")))


def test_json_has_the_call_and_its_trace() -> None:
    found = json.loads(logs.JsonLines().format(made("a", extra=of_call("0198"))))
    assert found["call"] == "0198"
    assert "trace_id" not in found
    assert json.loads(logs.JsonLines().format(made(HOSTILE)))["message"] == HOSTILE


@pytest.mark.parametrize(
    ("level", "number"), [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)]
)
def test_priorities(level: str, number: int) -> None:
    record = made("a", level=getattr(logging, level))
    assert logs.Prefixed(logs.Lines()).format(record).startswith(f"<{number}>20")


def test_each_line_of_a_traceback_has_the_priority() -> None:
    lines = logs.Prefixed(logs.Lines()).format(made("a", error=raised("b"))).split("\n")
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with path.open("w") as stream:
        found = path.stat()
        assert logs.is_journal(f"{found.st_dev}:{found.st_ino}", stream)
        assert not logs.is_journal(f"{found.st_dev}:{found.st_ino + 1}", stream)
        assert not logs.is_journal("", stream)
    assert not logs.is_journal("1:1", io.StringIO())


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("as_json", "told", "made_by", "formatter"),
    [
        (False, False, logging.StreamHandler, logs.Lines),
        (True, False, logging.StreamHandler, logs.JsonLines),
        (False, True, logs.JournalHandler, logging.Formatter),
        (True, True, logging.StreamHandler, logs.Prefixed),
    ],
)
def test_what_is_set_up(
    as_json: bool,
    told: bool,
    made_by: type,
    formatter: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv(logs.STREAM, f"{found.st_dev}:{found.st_ino}" if told else "8:1")
        assert logs.set_up("warning", as_json=as_json, stream=stream) is (as_json or told)
    [handler] = logging.getLogger().handlers
    assert type(handler) is made_by
    assert type(handler.formatter) is formatter
    assert logging.getLogger().level == logging.WARNING


def fields(data: bytes) -> dict[str, str]:
    """Read an entry as systemd's "Native Journal Protocol" has it."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def handler_at(path: Path) -> tuple[logs.JournalHandler, io.StringIO]:
    instead = io.StringIO()
    stream = logging.StreamHandler(instead)
    stream.setFormatter(logs.Prefixed(logs.Lines()))
    return logs.JournalHandler(path, instead=stream), instead


def test_an_entry_of_the_journal(tmp_path: Path) -> None:
    handler, _ = handler_at(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        handler.handle(made("it said %s", HOSTILE, error=raised("c"), extra=of_call("0198")))
        handler.handle(made("b", level=logging.INFO))
        first, second = fields(end.recv(1 << 16)), fields(end.recv(1 << 16))
    handler.close()
    message, *others = first.pop("MESSAGE").split("\n")
    assert message.isprintable() and message.startswith("it said x\\n2026")
    assert others[0] == "Traceback (most recent call last):"
    assert first == {
        "PRIORITY": "3", "SYSLOG_IDENTIFIER": "stockade", "LOGGER": "stockade.x",
        "CODE_FILE": "/f.py", "CODE_LINE": "7", "CODE_FUNC": "run", "STOCKADE_CALL": "0198",
    }  # fmt: skip
    assert (second["MESSAGE"], second["PRIORITY"]) == ("b", "6")
    assert "STOCKADE_CALL" not in second


def test_where_the_journal_is_gone_standard_error_has_it(tmp_path: Path) -> None:
    handler, instead = handler_at(tmp_path / "socket")
    handler.handle(made("a"))
    assert instead.getvalue().endswith(": a\n") and instead.getvalue().startswith("<3>")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        handler.handle(made("b"))
        assert fields(end.recv(1 << 16))["MESSAGE"] == "b"
        handler.handle(made("x" * (8 << 20)))  # larger than a datagram
        assert len(instead.getvalue()) > 8 << 20
    handler.handle(made("c"))
    assert instead.getvalue().endswith(": c\n")
    handler.close()


def test_a_journal_that_takes_nothing_holds_up_nobody(tmp_path: Path) -> None:
    handler, instead = handler_at(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        for number in range(10_000):
            handler.handle(made(f"message {number}"))
            if instead.getvalue():
                break
        assert instead.getvalue().endswith(f": message {number}\n")
    handler.close()


def test_standard_error_is_the_default(restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(logs.STREAM, raising=False)
    logs.set_up("info", as_json=False)
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
