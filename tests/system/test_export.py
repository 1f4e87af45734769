"""`stockade export` against a real daemon: what it says of sinks is so, what it does comes of it,
and the record has it."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.verify import verify
from supervisor.client import SinkTest
from tests.support.daemon import Daemon

WAIT_S = 60


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give one that each test configures and starts by itself."""
    with Daemon(tmp_path, isolated=False) as one:
        yield one
        if one.alive:
            assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


got: list[str] = []
"""Uids of the events that the other side took."""


class Taking(http.server.BaseHTTPRequestHandler):
    """Takes each event that comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        got.append(json.loads(body)["metadata"]["uid"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Give where events are taken on loopback."""
    got.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        taking = threading.Thread(target=server.serve_forever)
        taking.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            taking.join()


def export(daemon: Daemon, *arguments: str) -> Any:
    """Give what a verb says as JSON."""
    return json.loads(daemon.command("export", *arguments, "--json").stdout)


def proven(daemon: Daemon, name: str) -> SinkTest:
    """Test a sink to the end."""
    (*_, last) = daemon.client.test_sink(name, wait=WAIT_S)
    assert last.acknowledged, daemon.tail()
    return last


def indices(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_bytes().splitlines()]


def test_a_sink_is_tested_added_and_sent_again(daemon: Daemon, tmp_path: Path) -> None:
    one, two = (tmp_path / f"{name}.jsonl" for name in ("one", "two"))
    sinks = {"one": {"type": "file", "path": str(one), "format": "json"}}
    daemon.configure({"sinks": sinks})
    daemon.start()
    tested = export(daemon, "test", "one", "--timeout", str(WAIT_S))
    assert tested["acknowledged"] and not tested["refused"]
    assert indices(one) == list(range(tested["index"] + 1))
    (state,) = export(daemon, "status")
    assert (state["name"], state["kind"], state["status"]) == ("one", "file", "running")
    assert state["acknowledged"] >= tested["index"] + 1

    sinks["two"] = {"type": "file", "path": str(two), "format": "json"}
    daemon.configure({"sinks": sinks})
    assert export(daemon, "reload") == {
        "added": ["two"], "removed": [], "changed": [], "unchanged": ["one"], "ignored": [],
    }  # fmt: skip
    index = proven(daemon, "two").index
    assert indices(two) == list(range(index + 1))

    planned = daemon.client.replay_sink("two", time_ns=1, dry_run=True)
    assert planned.index == 0 and planned.entries > index
    replayed = export(daemon, "replay", "two", "--from", "1", "--yes")
    last = proven(daemon, "two").index
    had = replayed["index"] + replayed["entries"]
    assert indices(two)[:had] == list(range(had))
    assert indices(two)[had:] == list(range(1, last + 1))

    bodies = [entry.body()["body"] for entry in daemon.client.events(kind="export")][::-1]
    actions = [body["action"] for body in bodies]  # type: ignore[index,call-overload]
    assert actions == ["test", "reload", "reloaded", "test", "replay", "test"]
    assert len(list(daemon.client.events(kind="policy"))) == 2
    assert daemon.stop() == 0, daemon.tail()
    assert verify(daemon.state).ok


def test_dead_letters_are_given_up_and_sent_again(daemon: Daemon, tmp_path: Path, url: str) -> None:
    key = tmp_path / "key"
    key.write_text("whsec_" + base64.b64encode(bytes(32)).decode())
    key.chmod(0o600)
    hook = {
        "type": "webhook", "url": url, "plain_because": "a test", "secret": {"file": str(key)},
        "single": True, "body_size": "200B",
    }  # fmt: skip
    daemon.configure({"sinks": {"hook": hook}})
    daemon.start()
    assert proven(daemon, "hook").refused
    letters = list(daemon.client.dead_letters("hook", entries=True))
    first, *_, last = letters
    assert (first.kind, last.kind) == ("daemon_started", "export")
    assert list(daemon.client.dead_letters("hook", [last.uid], entries=True)) == [last]
    assert daemon.client.discard("hook", [first.uid]) == 1

    daemon.configure({"sinks": {"hook": {**hook, "body_size": "1MiB"}}})
    assert daemon.client.reload_sinks().changed == ("hook",)
    assert not proven(daemon, "hook").refused
    waiting = [letter.uid for letter in daemon.client.dead_letters("hook")]
    assert waiting[: len(letters) - 1] == [letter.uid for letter in letters[1:]]
    assert not set(got) & set(waiting)
    sent = export(daemon, "dlq", "replay", "hook", "--all")
    assert (sent["delivered"], sent["refused"]) == (waiting, [])
    assert set(waiting) <= set(got) and first.uid not in got
    assert list(daemon.client.dead_letters("hook")) == []
