"""Programs started so that their starts take as much of the record as a sandbox can make them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.call.outcome import Exited
from supervisor.client import FinishedCall
from supervisor.client.request import Content
from tests.support.daemon import Daemon, running_daemon

AT_ONCE = """
import os
for _ in range(4):
    gate, opener = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os.close(opener)
            os.read(gate, 1)
            os.execv("/bin/true", [b"true"] + [b"\\xff"] * 950)
        children.append(child)
    os.close(gate)
    os.close(opener)
    for child in children:
        os.waitpid(child, 0)
"""
"""Eight processes at once, each with an argv of bytes of which each takes nine in the record."""

DEEP = """
import os, shutil
os.chdir("/work")
for _ in range(17):
    name = b"\\x01" * 254
    os.mkdir(name)
    os.chdir(name)
name = b"\\x01" * 200
shutil.copy("/usr/bin/true", name)
os.chmod(name, 0o755)
if os.fork() == 0:
    os.execv(b"./" + name, [b"\\xff"] * 1024)
os.wait()
"""
"""One start that takes more than an entry: two long paths of control characters, and that argv."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def told(daemon: Daemon, call: FinishedCall) -> list[dict[str, Content]]:
    """Give what is on record of processes; nothing is lost."""
    entries = daemon.client.record(call.call_id).entries
    assert not [entry for entry in entries if entry.kind == "lost"]
    return [
        event
        for entry in entries
        if entry.kind == "processes"
        for event in entry.body()["body"]["events"]
    ]


def test_starts_at_once_with_bytes_that_grow(daemon: Daemon) -> None:
    call = daemon.client.run(["python3", "-c", AT_ONCE], profile="python")
    assert call.outcome == Exited(code=0), call.stderr
    events = told(daemon, call)
    starts = [one for one in events if one["what"] == "started" and len(one["argv"]) == 951]
    assert len(starts) == 32
    assert all(one["argv"] == ["true"] + [{"base64": "/w=="}] * 950 for one in starts)
    ended = [one["pid"] for one in events if one["what"] == "ended"]
    assert {one["pid"] for one in starts} <= set(ended)


def test_one_start_that_no_entry_holds(daemon: Daemon) -> None:
    call = daemon.client.run(["python3", "-c", DEEP], profile="build")
    assert call.outcome == Exited(code=0), call.stderr
    events = told(daemon, call)
    [start] = [one for one in events if one["what"] == "started" and "\x01" in str(one["path"])]
    more = [one for one in events if one["what"] == "argv" and one["pid"] == start["pid"]]
    assert start["argv_bytes"] == 2048
    assert "argv" not in start["cut"]
    assert start["argv"] == [{"base64": "/w=="}] * 128
    assert [one["offset"] for one in more] == [256]
