"""`kill`: whom it signals, with what, and what it says about it."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from supervisor.cli.verbs import cli
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon


def live(daemon: FakeDaemon, *names: str, endless: bool = False) -> None:
    """Let there be calls that go on being listed, as a call that drains does."""

    def page(_: Any) -> tool_pb2.ListCallsResponse:
        ids = [f"new-{len(daemon.asked('ListCalls'))}"] if endless else names
        return tool_pb2.ListCallsResponse(
            calls=[
                fake.call(call_id=name, correlation=types_pb2.Correlation(agent=name[0]))
                for name in ids
            ]
        )

    def signal(request: Any) -> tool_pb2.SignalResponse:
        match request.call_id:
            case "gone":
                raise Abort("FAILED_PRECONDITION", "CALL_CLOSED")
            case "none":
                raise Abort("NOT_FOUND", "CALL_NOT_FOUND")
        return tool_pb2.SignalResponse()

    daemon.play("ListCalls", page)
    daemon.play("Signal", signal)


def test_named(daemon: FakeDaemon, stockade: Stockade) -> None:
    live(daemon)
    result = stockade("kill", "a", "b", "a", "--why", "enough")
    assert (result.exit_code, result.stdout) == (0, "2 calls sent SIGKILL\n")
    asked = [(r.call_id, r.signal, r.why) for r in daemon.asked("Signal")]
    assert asked == [("a", 9, "enough"), ("b", 9, "enough")]


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "term", "15"])
def test_signal_names(daemon: FakeDaemon, stockade: Stockade, name: str) -> None:
    live(daemon)
    assert stockade("kill", "-s", name, "a").stdout == "1 call sent SIGTERM\n"
    assert daemon.asked("Signal")[0].signal == 15


def test_by_agent(daemon: FakeDaemon, stockade: Stockade) -> None:
    live(daemon, "w1", "x1", "w2")
    assert stockade("kill", "--agent", "w").stdout == "2 calls sent SIGKILL\n"
    assert [request.call_id for request in daemon.asked("Signal")] == ["w1", "w2"]
    assert all(request.live_only for request in daemon.asked("ListCalls"))


def test_all_looks_again_and_ends(daemon: FakeDaemon, stockade: Stockade) -> None:
    live(daemon, "w1", "x1")
    assert stockade("kill", "--all").stdout == "2 calls sent SIGKILL\n"
    assert len(daemon.asked("ListCalls")) == 2
    live(daemon, endless=True)
    result = stockade("kill", "--all")
    assert result.stdout == "10 calls sent SIGKILL\n"
    assert "gave up" in result.stderr


def test_ended_before_is_no_error(daemon: FakeDaemon, stockade: Stockade) -> None:
    live(daemon)
    result = stockade("kill", "gone")
    assert result.exit_code == 0
    assert result.stdout == "0 calls sent SIGKILL\n1 had ended before\n"


def test_one_that_is_not_there_does_not_keep_the_rest(
    daemon: FakeDaemon, stockade: Stockade
) -> None:
    live(daemon)
    result = stockade("kill", "--json", "none", "gone", "a")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "signal": 9, "signalled": ["a"], "ended": ["gone"], "failed": ["none"],
    }  # fmt: skip
    assert json.loads(result.stderr)["error"]["reason"] == "CALL_NOT_FOUND"


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "--all"], ["--agent", "x", "--all"], ["-s", "SPELL", "a"], ["-s", "0", "a"]],
)
def test_wrong_command_lines(stockade: Stockade, arguments: list[str]) -> None:
    assert stockade("kill", *arguments).exit_code == 2


def test_no_daemon(stockade: Stockade) -> None:
    assert stockade("kill", "--address", "unix:///nonexistent", "a", "b").exit_code == 7


@pytest.mark.parametrize(
    ("begun", "names"),
    [("KI", ["KILL"]), ("sigki", ["SIGKILL"]), ("sig", list(signal.Signals.__members__)),
     ("usr", ["USR1", "USR2"]), ("x", ["XCPU", "XFSZ"])],
)  # fmt: skip
def test_a_signal_is_completed(begun: str, names: list[str]) -> None:
    complete = ShellComplete(cli, {}, "stockade", "_STOCKADE_COMPLETE")
    assert [item.value for item in complete.get_completions(["kill", "-s"], begun)] == names
