"""Sinks of a real daemon: what it records comes out, in order and whole, also where it was killed;
one that is dead holds up no call, and retention waits for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import CapacityError
from tests.support import ocsf
from tests.support.daemon import Daemon

WAIT_S = 60.0
POLL_S = 0.05
DEAD = {"type": "relp", "address": "127.0.0.1:9", "plain_because": "nobody is there"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give one that each test configures and starts by itself."""
    with Daemon(tmp_path) as one:
        yield one
        if one.alive:
            assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


def out(daemon: Daemon, name: str) -> Path:
    return daemon.folder / f"{name}.jsonl"


def file_sink(daemon: Daemon, name: str) -> dict[str, Any]:
    return {"type": "file", "path": str(out(daemon, name)), "format": name}


def events(path: Path) -> list[dict[str, Any]]:
    whole, _, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    return [json.loads(line) for line in whole.split(b"\n") if line]


def indices_in(path: Path) -> set[int]:
    return {event["metadata"]["sequence"] for event in events(path)}


def wait_for(daemon: Daemon, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, daemon.tail()
        time.sleep(POLL_S)


def run(daemon: Daemon, *argv: str) -> str:
    with daemon.client.execute(list(argv), profile="base", agent="agent-7") as execution:
        for _ in execution:
            pass
        return execution.call_id


def has_outcome(path: Path, call: str) -> bool:
    return any(
        event["kind"] == "outcome" and event.get("call", {}).get("id") == call
        for event in events(path)
    )


def test_all_that_is_recorded_comes_out_also_after_a_kill(daemon: Daemon) -> None:
    formats = ("json", "ocsf", "ocsf-1.1")
    daemon.configure(
        {"sinks": {f"to-{name.replace('.', '-')}": file_sink(daemon, name) for name in formats}}
    )
    daemon.start()
    denied = run(daemon, "sh", "-c", "unshare -U true; echo '<b>\x1b[31m\u2028'")
    wait_for(daemon, lambda: has_outcome(out(daemon, "json"), denied))
    daemon.kill()
    daemon.start()
    last = run(daemon, "true")
    wait_for(daemon, lambda: has_outcome(out(daemon, "json"), last))
    assert daemon.stop() == 0, daemon.tail()
    daemon.start()  # the end of the one before is still to come
    size = len(events(out(daemon, "json")))
    wait_for(daemon, lambda: len(events(out(daemon, "json"))) > size)
    found = events(out(daemon, "json"))
    first_arrivals = list(dict.fromkeys(event["index"] for event in found))
    assert first_arrivals == list(range(len(first_arrivals)))
    assert "denied" in {event["kind"] for event in found if "call" in event}
    for name, version in (("ocsf", "1.8.0"), ("ocsf-1.1", "1.1.0")):
        path = out(daemon, name)
        wait_for(daemon, lambda: indices_in(path) >= set(first_arrivals))  # noqa: B023
        of_it = events(path)
        assert {problem for event in of_it for problem in ocsf.problems(event, version)} == set()
        assert 2004 in {event["class_uid"] for event in of_it}


def test_a_dead_sink_holds_up_no_call_and_keeps_what_is_left(daemon: Daemon) -> None:
    retain = {"size": "1B", "exported_by": []}
    daemon.configure({"sinks": {"dead": DEAD}, "record": {"retain": retain}})
    daemon.start()
    calls = [run(daemon, "sh", "-c", "head -c 5000 /dev/urandom") for _ in range(3)]
    for path in (daemon.state / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    said = json.loads(daemon.command("audit", "retain", "--dry-run", "--json").stdout)
    assert "is not exported: 0 is" in said["rest"], said
    for call in calls:
        assert len(daemon.command("audit", "cat", call).stdout) == 5000


def test_calls_are_refused_where_the_disk_is_too_full(daemon: Daemon) -> None:
    daemon.configure({"record": {"watermark": {"soft": "1024TiB", "hard": "1023TiB"}}})
    daemon.start(wait=False)
    wait_for(daemon, lambda: "health: NOT_SERVING: AUDIT_BACKLOG" in daemon.tail())
    with pytest.raises(CapacityError) as caught:
        run(daemon, "true")
    assert caught.value.reason == "AUDIT_BACKLOG"
    assert "the soft mark is" in daemon.tail()
