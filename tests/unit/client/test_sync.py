"""The sync client against a daemon that plays scripts: resuming, repeating, typed errors."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.call import outcome
from supervisor.call.types import Digest, Stream
from supervisor.client import Retry, Supervisor, Unreachable, address
from supervisor.client.request import INLINE_FILES_BYTES_MAX
from supervisor.client.values import SignedHead
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CallStateError,
    CapacityError,
    InvalidRequest,
    InvariantError,
    NotFound,
    NotPermitted,
    OutcomeError,
    RequestConflict,
    ShuttingDown,
)
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

TIRELESS = Retry(attempts_max=1_000_000, delay_s=0.001, delay_max_s=0.002)
WHOLE = b"".join(bytes([n]) * 100 for n in range(20))


def success(_: Any = None) -> Iterator[tool_pb2.CallEvent]:
    yield fake.accepted()
    yield fake.output(2, b"42\n")
    yield fake.denied(3)
    yield fake.finished(4, streams=[fake.summary(b"42\n")], denials=1)


def breaking(*events: tool_pb2.CallEvent, abort: Abort | None = None) -> fake.Script:
    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield from events
        if abort is not None:
            raise abort

    return script


def broken() -> Abort:
    return Abort("UNAVAILABLE", message="Socket closed")


def test_run(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Execute", success)
    call = client.run(["echo"], profile="python", agent="me")
    assert (call.call_id, call.stdout, call.exit_code, call.ok) == (fake.CALL_ID, b"42\n", 0, True)
    assert (call.profile_digest, call.record) == (fake.DIGEST, "cd" * 32)
    assert [denied.name for denied in call.denials] == ["unshare"]
    assert daemon.asked("Execute")[0].correlation.agent == "me"


def test_check_raises(daemon: FakeDaemon, client: Supervisor) -> None:
    failed = fake.finished(2, exited=types_pb2.Exited(code=3))
    daemon.play("Execute", breaking(fake.accepted(), failed))
    with pytest.raises(OutcomeError) as caught:
        client.run(["false"], profile="python", check=True)
    assert (caught.value.exit_code, caught.value.call.outcome) == (3, outcome.Exited(code=3))


def test_execute_is_repeated_with_the_same_id(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play(
        "Execute", breaking(abort=broken()),
        breaking(abort=Abort("UNAVAILABLE", "SHUTTING_DOWN")), success,
    )  # fmt: skip
    assert client.run(["x"], profile="python").ok
    ids = {request.request_id for request in daemon.asked("Execute")}
    assert len(daemon.asked("Execute")) == 3
    assert len(ids) == 1
    assert "" not in ids


def test_gives_up_after_a_bounded_number_of_attempts(
    daemon: FakeDaemon, client: Supervisor
) -> None:
    daemon.play("Execute", breaking(fake.accepted(), abort=broken()))
    daemon.play("Attach", breaking(abort=broken()))
    with pytest.raises(Unreachable) as caught:
        client.run(["x"], profile="python")
    assert len(daemon.asked("Attach")) == 4
    assert caught.value.metadata["call_id"] == fake.CALL_ID


def test_no_call_is_named_where_none_is_known_to_exist(
    daemon: FakeDaemon, client: Supervisor
) -> None:
    daemon.play("Execute", breaking(abort=broken()))
    daemon.play("Attach", breaking(abort=broken()))
    for follow in (lambda: client.run(["x"], profile="python"), client.attach("c").wait):
        with pytest.raises(Unreachable) as caught:
            follow()
        assert "call_id" not in caught.value.metadata


@pytest.mark.parametrize(
    ("abort", "kind"),
    [
        (Abort("NOT_FOUND", "PROFILE_NOT_FOUND"), NotFound),
        (Abort("PERMISSION_DENIED", "PROFILE_NOT_GRANTED"), NotPermitted),
        (Abort("ALREADY_EXISTS", "REQUEST_ID_REUSED"), RequestConflict),
        (Abort("RESOURCE_EXHAUSTED", "CALLS_LIMIT", retry_s=2), CapacityError),
        (Abort("UNAVAILABLE", "JOURNAL_UNAVAILABLE"), AuditUnavailable),
    ],
)
def test_refusals_are_typed_and_not_repeated(
    daemon: FakeDaemon, client: Supervisor, abort: Abort, kind: type[Exception]
) -> None:
    daemon.play("Execute", breaking(abort=abort))
    with pytest.raises(kind) as caught:
        client.execute(["x"], profile="python")
    assert caught.value.reason == abort.reason  # type: ignore[attr-defined]
    assert caught.value.retry_after_s == (abort.retry_s or None)  # type: ignore[attr-defined]
    assert len(daemon.asked("Execute")) == 1


def test_no_daemon_is_said_at_once(tmp_path: Path) -> None:
    with Supervisor(f"unix:{tmp_path}/none") as client:
        for ask in (lambda: client.run(["x"], profile="p"), client.profiles):
            with pytest.raises(Unreachable) as caught:
                ask()
            assert caught.value.reason == "SOCKET_MISSING"


def breaking_unary(abort: Abort) -> fake.Script:
    def script(_: Any) -> Any:
        raise abort

    return script


def test_write_stdin_is_repeated_where_the_line_breaks(
    daemon: FakeDaemon, client: Supervisor
) -> None:
    daemon.play(
        "WriteStdin",
        breaking_unary(broken()),
        breaking_unary(Abort("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")),
        lambda request: tool_pb2.WriteStdinResponse(next_offset=request.offset + 1),
    )
    assert client.write_stdin(fake.CALL_ID, b"x", offset=7) == 8
    assert len(daemon.asked("WriteStdin")) == 3


def test_large_files_are_uploaded_first(daemon: FakeDaemon, client: Supervisor) -> None:
    data = os.urandom(INLINE_FILES_BYTES_MAX + 3_000_000)
    daemon.play("Execute", success)
    client.run(["x"], profile="p", files={"large": data, "small": b"s"})
    assert [name for name, _ in daemon.requests] == ["WriteBlob", "Execute"]
    assert list(daemon.blobs.values()) == [data]
    large, small = daemon.asked("Execute")[0].files
    assert large.digest == fake.blob(data)
    assert small.data == b"s"


def test_a_file_that_is_too_large_is_named(
    daemon: FakeDaemon, client: Supervisor, tmp_path: Path
) -> None:
    data = bytes(INLINE_FILES_BYTES_MAX + 1)
    path = tmp_path / "large"
    path.write_bytes(data)
    daemon.play("WriteBlob", breaking_unary(Abort("INVALID_ARGUMENT", "BLOB_TOO_LARGE")))
    for send, name in (
        (lambda: client.run(["x"], profile="p", files={"l": path}), str(path)),
        (lambda: client.run(["x"], profile="p", files={"l": data}), "l"),
        (lambda: client.write_blob(path), str(path)),
    ):
        with pytest.raises(InvalidRequest) as caught:
            send()
        assert (caught.value.reason, caught.value.metadata["path"]) == ("BLOB_TOO_LARGE", name)
        assert name in caught.value.message


def test_a_closed_client_says_so(daemon: FakeDaemon) -> None:
    daemon.play("Execute", success)
    client = Supervisor(daemon.address)
    pages, execution = client.list_calls(), client.execute(["x"], profile="p")
    client.close()
    for use in (
        lambda: client.run(["x"], profile="p"),
        lambda: client.attach("c"),
        lambda: client.get("c"),
        lambda: client.write_blob(b"x"),
        lambda: client.read_blob(Digest.of(b"x")),
        lambda: list(pages),
        execution.wait,
    ):
        with pytest.raises(CallStateError) as caught:
            use()
        assert caught.value.reason == "CLIENT_CLOSED"
    assert len(daemon.asked("Execute")) == 1


def test_closing_ends_the_attempts(daemon: FakeDaemon) -> None:
    def close(_: Any) -> Any:
        client.close()
        raise broken()

    client = Supervisor(daemon.address)
    daemon.play("GetCall", close)
    with pytest.raises(CallStateError) as caught:
        client.get("c")
    assert caught.value.reason == "CLIENT_CLOSED"


def blobs(daemon: FakeDaemon, data: bytes, *, breaks_at: int = 0) -> None:
    """Make ReadBlob give `data`; the first time it breaks after `breaks_at` bytes, where set."""

    def whole(request: tool_pb2.ReadBlobRequest) -> Iterator[tool_pb2.ReadBlobResponse]:
        for start in range(request.offset, len(data), 1000):
            yield tool_pb2.ReadBlobResponse(data=data[start : start + 1000])

    def half(_: Any) -> Iterator[tool_pb2.ReadBlobResponse]:
        yield tool_pb2.ReadBlobResponse(data=data[:breaks_at])
        raise broken()

    daemon.play("ReadBlob", *([half] if breaks_at else []), whole)


def test_outputs_are_fetched_when_asked_for(daemon: FakeDaemon, client: Supervisor) -> None:
    data = os.urandom(5000)
    blobs(daemon, data, breaks_at=1500)
    file = types_pb2.OutputFile(path=b"chart.png", digest=fake.blob(data), mode=0o644)
    daemon.play("Execute", breaking(fake.accepted(), fake.finished(2, outputs=[file])))
    call = client.run(["x"], profile="p", outputs=["*.png"])
    assert list(call.outputs) == ["chart.png"]
    assert not daemon.asked("ReadBlob")
    assert call.outputs["chart.png"] == data
    assert [request.offset for request in daemon.asked("ReadBlob")] == [0, 1500]


@pytest.mark.parametrize("data", [b"ab", b"abd", b"abcd", b""])
def test_a_blob_that_is_another(daemon: FakeDaemon, client: Supervisor, data: bytes) -> None:
    blobs(daemon, data)
    with pytest.raises(AuditCorrupt) as caught:
        client.read_blob(Digest.of(b"abc"))
    assert caught.value.reason == "DIGEST_MISMATCH"


def test_write_blob(daemon: FakeDaemon, client: Supervisor, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    assert client.write_blob(path) == client.write_blob(b"x") == Digest.of(b"x")
    assert daemon.blobs == {Digest.of(b"x").sha256: b"x"}


def test_the_signed_head_and_a_receipt(daemon: FakeDaemon, client: Supervisor) -> None:
    head = audit_pb2.GetCheckpointResponse(checkpoint=b"head", key="k")
    daemon.play("GetCheckpoint", lambda _: head)
    daemon.play("GetReceipt", lambda _: audit_pb2.GetReceiptResponse(receipt=b"receipt"))
    assert client.checkpoint() == SignedHead(checkpoint=b"head", key="k")
    assert client.receipt(fake.CALL_ID) == b"receipt"
    assert daemon.asked("GetReceipt")[0].call_id == fake.CALL_ID


def test_read_output_skips_what_it_has(daemon: FakeDaemon, client: Supervisor) -> None:
    def first(_: Any) -> Iterator[audit_pb2.ReadOutputResponse]:
        yield audit_pb2.ReadOutputResponse(data=WHOLE[:700], offset=0)
        raise broken()

    def second(_: Any) -> Iterator[audit_pb2.ReadOutputResponse]:
        for start in range(0, len(WHOLE), 400):
            yield audit_pb2.ReadOutputResponse(data=WHOLE[start : start + 400], offset=start)

    daemon.play("ReadOutput", first, second)
    assert b"".join(client.read_output(fake.CALL_ID, Stream.STDERR)) == WHOLE
    assert daemon.asked("ReadOutput")[0].stream == types_pb2.STD_STREAM_STDERR


def test_reads_are_repeated_and_signals_are_not(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play(
        "GetCall",
        breaking_unary(broken()),
        lambda _: tool_pb2.GetCallResponse(call=fake.call()),
    )
    daemon.play("Signal", breaking_unary(broken()))
    assert client.get(fake.CALL_ID).call_id == fake.CALL_ID
    assert len(daemon.asked("GetCall")) == 2
    with pytest.raises(Unreachable):
        client.signal(fake.CALL_ID, 15)
    assert len(daemon.asked("Signal")) == 1


@pytest.mark.parametrize("method", ["Execute", "GetCall", "ReadBlob"])
def test_a_daemon_that_drained_is_told_of_and_not_its_socket(
    daemon: FakeDaemon, client: Supervisor, method: str
) -> None:
    def drain(_: Any) -> Any:
        daemon.path.unlink()
        raise Abort("UNAVAILABLE", "SHUTTING_DOWN")

    daemon.play(method, drain, breaking_unary(broken()))
    use = {
        "Execute": lambda: client.run(["x"], profile="p"),
        "GetCall": lambda: client.get("c"),
        "ReadBlob": lambda: client.read_blob(Digest.of(b"x")),
    }
    with pytest.raises(ShuttingDown) as caught:
        use[method]()
    assert caught.value.reason == "SHUTTING_DOWN"


def test_a_daemon_that_is_slow_to_answer_is_waited_for(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Half a second until its first word is a busy daemon, not a missing one."""
    slow = tmp_path / "slow"

    def hand_on() -> None:
        ours, _ = door.accept()
        time.sleep(0.5)
        theirs = socket.socket(socket.AF_UNIX)
        theirs.connect(daemon.address.removeprefix("unix://"))
        for source, sink in ((ours, theirs), (theirs, ours)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(slow))
        door.listen()
        threading.Thread(target=hand_on, daemon=True).start()
        daemon.play("Execute", success)
        with Supervisor(f"unix://{slow}", retry=Retry(attempts_max=1)) as client:
            assert client.run(["echo"], profile="python").ok


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either end may go first
        while data := source.recv(1 << 16):
            sink.sendall(data)


def test_a_unary_call_has_a_deadline(daemon: FakeDaemon) -> None:
    held = threading.Event()

    def slow(_: Any) -> Any:
        held.wait(10)
        return tool_pb2.GetCallResponse()

    daemon.play("GetCall", slow)
    with (
        Supervisor(daemon.address, timeout=0.05) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.get("c")
    held.set()
    assert (caught.value.reason, caught.value.exit_code) == ("NO_ANSWER", 7)


def test_the_deadline_holds_for_all_attempts_and_for_connecting(tmp_path: Path) -> None:
    with (
        fake.silence(tmp_path) as address,
        Supervisor(address, timeout=0.5, retry=TIRELESS) as client,
        pytest.raises(Unreachable) as caught,
    ):
        list(client.records())
    assert caught.value.exit_code == 7


def test_a_write_to_stdin_waits_past_deadlines(daemon: FakeDaemon) -> None:
    held = threading.Event()

    def full(_: Any) -> Any:
        held.wait(10)
        return tool_pb2.WriteStdinResponse()

    def read(request: Any) -> Any:
        held.set()
        return tool_pb2.WriteStdinResponse(next_offset=request.offset + len(request.data))

    daemon.play("WriteStdin", full, read)
    with Supervisor(daemon.address, timeout=0.5) as client:
        assert client.write_stdin("c", b"abc", offset=1) == 4
    assert [request.offset for request in daemon.asked("WriteStdin")] == [1, 1]


def test_a_write_to_stdin_ends_where_nobody_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "CONNECT_TIMEOUT_MS", 1000)
    with (
        fake.silence(tmp_path) as silent,
        Supervisor(silent, timeout=0.5, retry=TIRELESS) as client,
        pytest.raises(Unreachable),
    ):
        client.write_stdin("c", b"abc", offset=0)


def test_a_page_that_leads_to_itself_ends_the_list(daemon: FakeDaemon, client: Supervisor) -> None:
    place = "1"
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse(next_page_token=place))
    with pytest.raises(InvariantError) as caught:
        list(client.list_calls(limit=5))
    assert caught.value.reason == "PAGE_LOOP"


def test_pages(daemon: FakeDaemon, client: Supervisor) -> None:
    def page(request: Any) -> tool_pb2.ListCallsResponse:
        number = int(request.page_token or 0)
        calls = [fake.call(call_id=f"c{number}{n}") for n in range(2)]
        following = str(number + 1) if number < 2 else ""
        return tool_pb2.ListCallsResponse(calls=calls, next_page_token=following)

    daemon.play("ListCalls", page)
    assert [c.call_id for c in client.list_calls()] == ["c00", "c01", "c10", "c11", "c20", "c21"]
    assert len(list(client.list_calls(live_only=True, profile="p", limit=4))) == 4
    last = daemon.asked("ListCalls")[-1]
    assert (last.live_only, last.profile, last.page_size) == (True, "p", 2)


def test_records(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse(records=[fake.call()]))
    texts = ("profile", "caller", "agent", "session", "outcome", "denied", "to", "program", "text")
    wanted: Any = {name: f"the {name}" for name in texts}
    found = list(
        client.records(
            denied_only=True, since_ns=5_000_000_001, until_ns=6_000_000_002, limit=9, **wanted
        )
    )
    assert [call.call_id for call in found] == [fake.CALL_ID]
    (request,) = daemon.asked("ListRecords")
    assert {name: getattr(request, name) for name in texts} == wanted
    assert request.denied_only
    assert (request.since.seconds, request.since.nanos, request.page_size) == (5, 1, 9)
    assert (request.until.seconds, request.until.nanos) == (6, 2)


def test_events_are_read_to_the_last_page(daemon: FakeDaemon, client: Supervisor) -> None:
    """Also where a page in between has none."""

    def page(request: audit_pb2.ListEventsRequest) -> audit_pb2.ListEventsResponse:
        number = int(request.page_token or 3)
        entries = [] if number == 2 else [audit_pb2.RecordEntry(index=number, kind="read")]
        following = str(number - 1) if number > 1 else ""
        return audit_pb2.ListEventsResponse(entries=entries, next_page_token=following)

    daemon.play("ListEvents", page)
    found = list(client.events(kind="read", since_ns=5_000_000_001, until_ns=6_000_000_002))
    assert [entry.index for entry in found] == [3, 1]
    request = daemon.asked("ListEvents")[0]
    assert (request.kind, request.since.seconds, request.until.nanos) == ("read", 5, 2)
    assert [entry.index for entry in client.events(limit=1)] == [3]


def test_record_is_read_to_its_end(daemon: FakeDaemon, client: Supervisor) -> None:
    def page(request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        first = request.from_sequence
        entries = [audit_pb2.RecordEntry(sequence=n, kind="output") for n in (first, first + 1)]
        following = first + 2 if first < 5 else 0
        return audit_pb2.GetRecordResponse(
            call=fake.call(), entries=entries, next_sequence=following
        )

    daemon.play("GetRecord", page)
    record = client.record(fake.CALL_ID)
    assert [entry.sequence for entry in record.entries] == [1, 2, 3, 4, 5, 6]
    assert record.call.profile == "python"


def test_a_recorded_call_comes_without_its_entries(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("GetRecord", lambda _: audit_pb2.GetRecordResponse(call=fake.call()))
    assert client.recorded_call(fake.CALL_ID).call_id == fake.CALL_ID
    assert daemon.asked("GetRecord")[0].from_sequence > 1 << 60


def test_the_profile_of_a_record_is_checked(daemon: FakeDaemon, client: Supervisor) -> None:
    text = b'{"name":"python"}'
    call = fake.call(profile_digest=Digest.of(text).sha256)
    given = iter([text, b"{}", b""])
    daemon.play(
        "GetRecord",
        *[lambda _: audit_pb2.GetRecordResponse(call=call, profile_json=next(given))] * 3,
    )
    assert client.recorded_profile(fake.CALL_ID) == text
    asked = daemon.asked("GetRecord")[0]
    assert asked.profile
    assert asked.from_sequence > 1 << 60
    for _ in range(2):
        with pytest.raises(AuditCorrupt) as caught:
            client.recorded_profile(fake.CALL_ID)
        assert caught.value.reason == "DIGEST_MISMATCH"


def test_profiles(daemon: FakeDaemon, client: Supervisor) -> None:
    summary = profile_pb2.ProfileSummary(name="python", why="w", digest="d", mode="enforce")
    finding = profile_pb2.ProfileFinding(wall="files", exposure=profile_pb2.EXPOSURE_CLOSED)
    daemon.play("ListProfiles", lambda _: profile_pb2.ListProfilesResponse(profiles=[summary]))
    daemon.play("GetProfile", lambda _: profile_pb2.GetProfileResponse(summary=summary))
    daemon.play("ExplainProfile", lambda _: profile_pb2.ExplainProfileResponse(findings=[finding]))
    assert [profile.name for profile in client.profiles()] == ["python"]
    assert client.get_profile("python").summary.why == "w"
    assert client.explain("python")[0].exposure == "closed"
