"""`ps`: what it asks for, and what it shows of whom nobody trusts."""

from __future__ import annotations

import json

import pytest

from supervisor.cli.ps import ended
from supervisor.client import wire
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon

HOSTILE = fake.call(
    call_id="c2",
    argv=[b"\x1b[2J", b"\xe2\x80\xae"],
    correlation=types_pb2.Correlation(agent="other\x1b]0;x\x07"),
)


@pytest.fixture(autouse=True)
def _calls(daemon: FakeDaemon) -> None:
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse(calls=[fake.call(), HOSTILE]))


def test_live_calls(daemon: FakeDaemon, stockade: Stockade) -> None:
    result = stockade("ps", "-p", "python", "-n", "7")
    header, first, second = result.stdout.splitlines()
    assert header.split() == [
        "CALL", "CALLER", "AGENT", "PROFILE", "STATE", "AGE", "DENIED", "COMMAND",
    ]  # fmt: skip
    assert first.startswith("call-1  owner   writer")
    assert first.endswith("python3 -c 'print(6*7)'")
    assert second.endswith("$'\\e[2J' $'\\u202e'")
    assert "\x1b" not in result.stdout
    (request,) = daemon.asked("ListCalls")
    assert (request.live_only, request.profile, request.page_size) == (True, "python", 7)


def test_all(daemon: FakeDaemon, stockade: Stockade) -> None:
    stockade("ps", "--all")
    assert not daemon.asked("ListCalls")[0].live_only


def test_ids_and_agent(stockade: Stockade) -> None:
    assert stockade("ps", "--ids").stdout == "call-1\nc2\n"
    assert stockade("ps", "--ids", "--agent", "writer").stdout == "call-1\n"


def test_json(stockade: Stockade) -> None:
    first, second = json.loads(stockade("ps", "--json").stdout)
    assert (first["call_id"], first["state"], first["finished"]) == ("call-1", "running", None)
    assert second["argv"] == ["\x1b[2J", "\u202e"]


def test_none(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse())
    result = stockade("ps")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no live calls" in result.stderr


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ({"exited": types_pb2.Exited(code=3)}, "exited 3"),
        ({"signaled": types_pb2.Signaled(signal=11)}, "signaled 11"),
        ({"stopped": types_pb2.Stopped(signal=9)}, "stopped 9"),
        ({"limit_exceeded": types_pb2.LimitExceeded(limit=types_pb2.LIMIT_KIND_CPU)}, "limit cpu"),
        ({"timed_out": types_pb2.TimedOut()}, "timed_out"),
    ],
)
def test_ended(how: dict[str, object], shown: str) -> None:
    assert ended(wire.finished(fake.finish(**how))) == shown
