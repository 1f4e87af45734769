"""`attach`: as `run` would have shown it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.v1 import types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon


@pytest.mark.parametrize("reason", ["CONTENT_ERASED", "CONTENT_LOCKED"])
def test_what_cannot_be_followed_is_no_reason_to_try_again(
    reason: str, daemon: FakeDaemon, stockade: Stockade
) -> None:
    def refuse(_: object) -> Any:
        raise Abort("NOT_FOUND", reason, call_id="call-1")
        yield

    daemon.play("Attach", refuse)
    found = stockade("attach", "call-1")
    assert found.exit_code == 3
    assert f"[{reason}]" in found.stderr
    assert "stockade attach" not in found.stderr


def test_attach(daemon: FakeDaemon, stockade: Stockade) -> None:
    events = [fake.output(5, b"out"), fake.finished(6, exited=types_pb2.Exited(code=4))]
    daemon.play("Attach", lambda _: iter(events))
    result = stockade("attach", "call-1", "--from-sequence", "5")
    assert (result.exit_code, result.stdout_bytes) == (4, b"out")
    (request,) = daemon.asked("Attach")
    assert (request.call_id, request.from_sequence) == ("call-1", 5)
    lines = stockade("attach", "--json", "call-1").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["output", "finished"]


def test_no_such_call(daemon: FakeDaemon, stockade: Stockade) -> None:
    def refuse(_: Any) -> Any:
        raise Abort("NOT_FOUND", "CALL_NOT_FOUND")

    daemon.play("Attach", refuse)
    assert stockade("attach", "none").exit_code == 3
