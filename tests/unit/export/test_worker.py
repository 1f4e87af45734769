"""The process of a sink: what it gives up."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from supervisor.export.channel import Channel, ChannelClosed
from supervisor.export.worker import LOGGED_CHARS_MAX, OneLine, ToDaemon

HERE = Path(__file__).resolve().parents[3]
MESSAGE = "it says %s"
CODE = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from supervisor.export.worker import confine
confine(int(sys.argv[2]))
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
print(os.getresuid(), os.getresgid(), os.getgroups(), status["NoNewPrivs"], end=" ")
print(status["CapEff"], status["CapPrm"])
try:
    os.setresuid(0, 0, 0)
except PermissionError:
    print("not root again")
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print("dumpable", dumpable)
"""


def confined(uid: int) -> list[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", CODE, HERE, str(uid)],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
    ).stdout.splitlines()


@pytest.mark.root
def test_it_becomes_another_user_with_no_rights() -> None:
    uid = 65534
    first, *more = confined(uid)
    assert first.startswith(f"{(uid,) * 3} {(uid,) * 3} [] 1 0000000000000000 0000000000000000")
    assert more == ["not root again", "dumpable 0"]


def test_it_can_gain_nothing_where_it_stays_who_it_is() -> None:
    first, *more = confined(0)
    assert first.startswith(f"{(os.getuid(),) * 3}")
    assert " 1 " in first
    assert more[-1] == "dumpable 0"


def test_what_a_receiver_said_is_one_line_with_the_sinks_name() -> None:
    lines = OneLine()
    lines.sink = "siem"
    said = "no\n2026-01-01T00:00:00Z CRITICAL forged\x1b[2J\u202e"
    record = logging.LogRecord(
        "stockade.export", logging.WARNING, "", 1, "it says %s", (said,), None
    )
    record.created = 0.0
    line = lines.format(record)
    assert line.startswith("1970-01-01T00:00:00.")
    assert "WARNING stockade.export: sink siem: it says no\\n2026" in line
    assert line.isprintable()


def logged(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("stockade.export", level, "", 1, "%s", (text,), None)


def test_the_daemon_is_told_what_is_logged_from_any_thread() -> None:
    channel, stream = mock.create_autospec(Channel, instance=True), io.StringIO()
    handler = ToDaemon(logging.StreamHandler(stream))

    async def main() -> None:
        handler.handle(logged("too early"))
        handler.attach(channel)
        handler.handle(logged("x" * 2 * LOGGED_CHARS_MAX))
        await asyncio.to_thread(handler.handle, logged("from afar", logging.ERROR))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert stream.getvalue() == "too early\n"
    assert channel.tell.call_args_list == [
        mock.call("logged", level=30, text="x" * LOGGED_CHARS_MAX),
        mock.call("logged", level=40, text="from afar"),
    ]


def test_what_the_daemon_does_not_take_is_written_here() -> None:
    channel, stream = mock.create_autospec(Channel, instance=True), io.StringIO()
    channel.tell.side_effect = ChannelClosed
    handler = ToDaemon(logging.StreamHandler(stream))

    async def main() -> None:
        handler.attach(channel)
        handler.handle(logged("it has gone"))

    asyncio.run(main())
    assert stream.getvalue() == "it has gone\n"
