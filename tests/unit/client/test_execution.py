"""Following a call: events in order across breaks, standard input, and its end."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.call import outcome
from supervisor.call.events import SLOW_SUBSCRIBER, Accepted, Finished, KeepAlive, Output
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX, Terminal
from supervisor.client import Supervisor
from supervisor.errors import CallStateError, InvalidRequest, NotFound
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon
from tests.unit.client.test_sync import WHOLE, breaking, breaking_unary, broken, success


def test_resumes_after_a_break(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Execute", breaking(fake.accepted(), fake.output(2, WHOLE[:700]), abort=broken()))
    daemon.play(
        "Attach",
        breaking(abort=broken()),
        breaking(fake.output(3, WHOLE[700:900], 700), abort=broken()),
        breaking(fake.output(4, WHOLE[900:], 900), fake.finished(5, streams=[fake.summary(WHOLE)])),
    )
    call = client.run(["x"], profile="python")
    assert (call.stdout, call.stdout_truncated) == (WHOLE, False)
    assert [request.from_sequence for request in daemon.asked("Attach")] == [3, 3, 4]
    assert len(daemon.asked("Execute")) == 1


@pytest.mark.parametrize("ends", [None, "stream"])
def test_resumes_where_it_was_too_slow(
    daemon: FakeDaemon, client: Supervisor, ends: str | None
) -> None:
    lost = [fake.lost(8, SLOW_SUBSCRIBER)] if ends is None else []
    daemon.play("Execute", breaking(fake.accepted(), fake.output(2, WHOLE[:700]), *lost))
    daemon.play(
        "Attach",
        breaking(fake.output(3, WHOLE[700:], 700), fake.finished(9, streams=[fake.summary(WHOLE)])),
    )
    call = client.run(["x"], profile="python")
    assert (call.stdout, call.lost) == (WHOLE, ())
    assert [request.from_sequence for request in daemon.asked("Attach")] == [3]


def test_events_are_typed(daemon: FakeDaemon, client: Supervisor) -> None:
    alive = fake.event(1, keep_alive=tool_pb2.KeepAlive())
    daemon.play("Execute", breaking(fake.accepted(), alive, *list(success())[1:]))
    with client.execute(["x"], profile="python") as execution:
        assert execution.call_id == fake.CALL_ID
        kinds = [type(event.event) for event in execution]
    assert kinds[:3] == [Accepted, KeepAlive, Output]
    assert kinds[-1] is Finished


def test_attach(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Attach", success)
    call = client.attach(fake.CALL_ID).wait()
    assert call.stdout == b"42\n"
    assert daemon.asked("Attach")[0].from_sequence == 1
    daemon.play("Attach", breaking(abort=Abort("NOT_FOUND", "CALL_NOT_FOUND")))
    with pytest.raises(NotFound):
        client.attach("other").wait()


def test_leaving_stops_following_and_not_the_call(daemon: FakeDaemon, client: Supervisor) -> None:
    held = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        held.wait(10)

    daemon.play("Execute", script)
    with client.execute(["x"], profile="python") as execution:
        pass
    held.set()
    assert list(execution)[1:] == []
    assert not daemon.asked("Signal")


def test_cancel_stops_the_call(daemon: FakeDaemon, client: Supervisor) -> None:
    asked = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        asked.wait(10)
        yield fake.finished(2, stopped=types_pb2.Stopped(by="me", reason="SIGNAL", signal=9))

    def signal(_: Any) -> tool_pb2.SignalResponse:
        asked.set()
        return tool_pb2.SignalResponse()

    daemon.play("Execute", script)
    daemon.play("Signal", signal)
    with client.execute(["x"], profile="python") as execution:
        execution.cancel(why="enough")
        assert execution.wait().outcome == outcome.Stopped(by="me", reason="SIGNAL")
    (request,) = daemon.asked("Signal")
    assert (request.call_id, request.signal, request.why) == (fake.CALL_ID, 9, "enough")


def test_a_terminal_is_asked_for_and_resized(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Execute", success)
    daemon.play("ResizeTerminal", lambda _: tool_pb2.ResizeTerminalResponse())
    terminal = Terminal(rows=24, columns=80, term="vt100")
    with client.execute(["x"], profile="python", terminal=terminal) as execution:
        execution.resize_terminal(rows=50, columns=132)
    (asked,), (resized,) = daemon.asked("Execute"), daemon.asked("ResizeTerminal")
    assert asked.terminal == tool_pb2.Terminal(rows=24, columns=80, term="vt100")
    wanted = tool_pb2.ResizeTerminalRequest(call_id=fake.CALL_ID, rows=50, columns=132)
    assert resized == wanted
    with client.execute(["x"], profile="python"):
        assert not daemon.asked("Execute")[-1].HasField("terminal")


def test_cancel_of_an_ended_call_is_no_error(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Execute", success)
    daemon.play("Signal", breaking_unary(Abort("FAILED_PRECONDITION", "CALL_CLOSED")))
    with client.execute(["x"], profile="python") as execution:
        execution.cancel()
        with pytest.raises(CallStateError):
            execution.signal(15)


def reading(daemon: FakeDaemon, got: list[bytes], ended: threading.Event) -> None:
    """Make WriteStdin keep what it gets, and refuse what does not fit on."""

    def write(request: tool_pb2.WriteStdinRequest) -> tool_pb2.WriteStdinResponse:
        assert request.offset == sum(map(len, got))
        got.append(request.data)
        if request.end:
            ended.set()
        return tool_pb2.WriteStdinResponse(next_offset=request.offset + len(request.data))

    daemon.play("WriteStdin", write)


def test_long_stdin_is_written_while_it_runs(daemon: FakeDaemon, client: Supervisor) -> None:
    data = os.urandom(2 * STDIN_CHUNK_BYTES_MAX + 5)
    got: list[bytes] = []
    ended = threading.Event()

    def script(request: tool_pb2.ExecuteRequest) -> Iterator[tool_pb2.CallEvent]:
        got.append(request.stdin)
        reading(daemon, got, ended)
        yield fake.accepted()
        ended.wait(10)
        yield fake.finished(2)

    daemon.play("Execute", script)
    assert client.run(["cat"], profile="python", stdin=io.BytesIO(data)).ok
    assert b"".join(got) == data
    assert ended.is_set()


def test_a_program_that_does_not_read_is_no_error(daemon: FakeDaemon, client: Supervisor) -> None:
    refused = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        refused.wait(10)
        yield fake.finished(2)

    def refuse(_: Any) -> Any:
        refused.set()
        raise Abort("FAILED_PRECONDITION", "STDIN_CLOSED")

    daemon.play("Execute", script)
    daemon.play("WriteStdin", refuse)
    stdin = bytes(2 * STDIN_CHUNK_BYTES_MAX)
    assert client.run(["true"], profile="python", stdin=stdin).ok


class Unreadable(io.BytesIO):
    """A file that breaks after its beginning."""

    def read1(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def stopped_by_signal(daemon: FakeDaemon) -> None:
    """Play a call that ends by a signal and by nothing else."""
    asked = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        asked.wait(10)
        yield fake.finished(2, stopped=types_pb2.Stopped(by="me", reason="SIGNAL", signal=9))

    def signal(_: Any) -> tool_pb2.SignalResponse:
        asked.set()
        return tool_pb2.SignalResponse()

    daemon.play("Execute", script)
    daemon.play("Signal", signal)


def too_large(_: Any) -> Any:
    raise Abort("INVALID_ARGUMENT", "STDIN_TOO_LARGE", "ä" * 600)


def test_stdin_that_cannot_be_read_stops_the_call(daemon: FakeDaemon, client: Supervisor) -> None:
    stopped_by_signal(daemon)
    with pytest.raises(OSError, match="Input/output"):
        client.run(["cat"], profile="p", stdin=Unreadable(bytes(STDIN_CHUNK_BYTES_MAX + 1)))
    assert "Input/output error" in daemon.asked("Signal")[0].why


def test_stdin_that_is_refused_stops_the_call_and_says_why(
    daemon: FakeDaemon, client: Supervisor
) -> None:
    stopped_by_signal(daemon)
    daemon.play("WriteStdin", too_large)
    with client.execute(["cat"], profile="p", stdin=bytes(2 * STDIN_CHUNK_BYTES_MAX)) as execution:
        with pytest.raises(InvalidRequest) as caught:
            execution.wait()
        assert execution.stdin_error is caught.value
    assert caught.value.reason == "STDIN_TOO_LARGE"
    (request,) = daemon.asked("Signal")
    assert "STDIN_TOO_LARGE: ää" in request.why
    assert len(request.why.encode()) <= 1024


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_cannot_be_stopped_either(daemon: FakeDaemon, client: Supervisor) -> None:
    refused = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        refused.wait(10)
        yield fake.finished(2)

    def refuse(_: Any) -> Any:
        refused.set()
        raise Abort("PERMISSION_DENIED", "SIGNAL_NOT_GRANTED")

    daemon.play("Execute", script)
    daemon.play("WriteStdin", too_large)
    daemon.play("Signal", refuse)
    with pytest.raises(InvalidRequest):
        client.run(["cat"], profile="p", stdin=bytes(2 * STDIN_CHUNK_BYTES_MAX))


def test_write_stdin_by_hand(daemon: FakeDaemon, client: Supervisor) -> None:
    got: list[bytes] = [b"ab"]
    ended = threading.Event()
    reading(daemon, got, ended)
    daemon.play("Execute", success)
    with client.execute(["cat"], profile="p", stdin=b"ab", stdin_open=True) as execution:
        execution.write_stdin(b"cd" * STDIN_CHUNK_BYTES_MAX)
        execution.write_stdin(b"e")
        execution.close_stdin()
    assert b"".join(got) == b"ab" + b"cd" * STDIN_CHUNK_BYTES_MAX + b"e"
    assert ended.is_set()
