"""Refusals are on record, and a flood of them is a count."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from supervisor.api import refusal_entries
from supervisor.api.callers import Grants, Identity
from supervisor.api.peers import Peer
from supervisor.api.refusal_entries import (
    DROPPED_EVERY_S,
    ORIGIN_BURST,
    ORIGIN_PER_S,
    REASON_BURST,
    REASON_PER_S,
    ROWS_MAX,
    TEXT_MAX,
    RefusalEntries,
    asked_of,
    cleaned,
)
from supervisor.audit.entry import Head, encode_entry
from supervisor.call.types import Caller
from supervisor.errors import (
    AuditUnavailable,
    CallStateError,
    InputUnread,
    NotPermitted,
    StockadeError,
    Unauthenticated,
)
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2
from tests.unit.api.fakes import FakeOwn
from tests.unit.api.harness import connected, execute_request, refused, run

DENIED = NotPermitted("AUDIT_NOT_GRANTED", "no")
STRANGER = Unauthenticated("PEER_UNKNOWN", "no", metadata={"certificate": "x.example.com"})
PEER = Peer(transport="unix", address="uid 9", uid=9, gid=8, pid=7)
AT_NS = 1_000
CHOSEN = FakeOwn().chosen
TOKEN = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"


class Desk:
    """Refusals at a time that stands still."""

    def __init__(self) -> None:
        self.own = FakeOwn()
        self.now_s = 100.0
        self.entries = RefusalEntries(self.own, lambda: self.now_s, lambda: AT_NS)

    def refuse(self, error: StockadeError = DENIED, *, who: str = "me") -> None:
        caller = Caller(name=who, transport="unix", uid=9, gid=8, pid=7)
        grants = Grants(caller=who, profiles=frozenset(), calls="own", audit="none")
        identity = Identity(caller=caller, grants=grants) if who else None
        self.entries.note(error, rpc="/a.B/C", identity=identity, peer=PEER)

    def flush(self) -> dict[str, Any]:
        self.own.written.clear()
        self.entries.flush()
        ((kind, body),) = self.own.written
        assert kind == "refusals_dropped"
        return body


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_who_is_refused_what(desk: Desk) -> None:
    desk.refuse()
    ((kind, body),) = desk.own.written
    assert kind == "refused"
    assert (body["reason"], body["rpc"]) == ("AUDIT_NOT_GRANTED", "/a.B/C")
    assert body["caller"]["name"] == "me"
    assert body["peer"]["pid"] == 7


def test_who_is_nobody(desk: Desk) -> None:
    desk.refuse(STRANGER, who="")
    ((kind, body),) = desk.own.written
    assert kind == "unauthenticated"
    assert body["caller"] is None
    assert body["peer"]["uid"] == 9
    assert body["certificate"] == "x.example.com"


def test_a_flood_is_a_count(desk: Desk) -> None:
    for _ in range(1000):
        desk.refuse()
    assert len(desk.own.written) == REASON_BURST
    body = desk.flush()
    assert body["count"] == 1000 - REASON_BURST
    assert (body["since_ns"], body["until_ns"]) == (AT_NS, AT_NS)
    row = {"kind": "refused", "reason": "AUDIT_NOT_GRANTED", "who": "me"}
    assert body["of"] == [{**row, "count": body["count"]}]
    desk.own.written.clear()
    desk.entries.flush()
    assert not desk.own.written, "told once"


def test_a_flood_hides_no_other_reason_and_no_other_caller(desk: Desk) -> None:
    for _ in range(1000):
        desk.refuse()
    desk.own.written.clear()
    desk.refuse(NotPermitted("PROFILE_NOT_GRANTED", "no"))
    desk.refuse(who="other")
    assert [body["reason"] for _, body in desk.own.written] == [
        "PROFILE_NOT_GRANTED",
        "AUDIT_NOT_GRANTED",
    ]


def test_what_an_hour_of_floods_can_write(desk: Desk) -> None:
    """However many reasons there are, and however many users who are no callers."""
    for _ in range(360):
        for number in range(100):
            desk.refuse(NotPermitted(f"R{number}", "no"), who="")
        desk.now_s += DROPPED_EVERY_S
    assert len(desk.own.written) <= ORIGIN_BURST + ORIGIN_PER_S * 3600
    assert desk.flush()["count"] > 30_000


def test_after_a_while_there_are_entries_again(desk: Desk) -> None:
    for _ in range(50):
        desk.refuse()
    desk.own.written.clear()
    desk.now_s += 1 / REASON_PER_S
    desk.refuse()
    desk.refuse()
    assert len(desk.own.written) == 1


def test_what_cannot_be_written_is_counted_until_it_can(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.own.failure = AuditUnavailable("RECORD_FULL", "no room")
    desk.refuse()
    desk.entries.flush()
    assert "1 refusals are not on record yet" in caplog.text
    desk.own.failure = None
    assert desk.flush()["count"] == 1


def test_an_entry_of_counts_is_bounded(desk: Desk) -> None:
    for number in range(3 * ROWS_MAX):
        peer = Peer(transport="tls", address=f"203.0.113.{number}:1", uid=None)
        desk.entries.connection_refused(peer)
    for number in range(3 * ROWS_MAX):
        desk.entries._drop("refused", f"R{number}" + "x" * TEXT_MAX, "z" * 64)
    body = desk.flush()
    assert body["count"] == 6 * ROWS_MAX
    assert body["of"][0]["who"] == "203.0.113.0"
    assert body["of"][-1] == {"kind": "others", "reason": "others", "who": "others", "count": 257}
    assert encode_entry(HEAD, body)


HEAD = Head(index=0, prev=bytes(32), time_ns=1, kind="refused", call="", sequence=0)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (
            execute_request(b"/bin/x\xff", b"--token", b"hunter2", request_id="r"),
            {"profile": "python", "request_id": "r", "program": "/bin/x\ufffd", "arguments": 2},
        ),
        (execute_request(profile=""), {}),
        (tool_pb2.SignalRequest(call_id="c", why="secret"), {"call_id": "c"}),
        (profile_pb2.GetProfileRequest(name="n"), {"name": "n"}),
        (audit_pb2.ListRecordsRequest(profile="p", text="secret"), {"profile": "p"}),
        (object(), {}),
    ],
)
def test_what_was_asked_is_named_and_not_quoted(request_: object, found: dict[str, Any]) -> None:
    assert cleaned(asked_of(request_), CHOSEN.text) == found


def test_what_was_asked_is_cut() -> None:
    request = execute_request(b"\xff" * 10**6, profile="\U0001f600" * 10**5, request_id="r" * 999)
    found = cleaned(asked_of(request), CHOSEN.text)
    assert {len(found[name]) for name in ("profile", "request_id", "program")} == {TEXT_MAX}  # type: ignore[arg-type]
    body = {"asked": found, "reason": "x" * TEXT_MAX, "rpc": "\x00" * TEXT_MAX}
    assert len(encode_entry(HEAD, body)) < 8192


def test_each_door_writes(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"callers": [{"name": "me", "uid": os.getuid(), "profiles": ["python"]}]}
        async with connected(tmp_path, config) as (running, client):
            own = running.engine.store.own
            await refused(client.audit.ListRecords(audit_pb2.ListRecordsRequest()))
            await refused(client.tool.Execute(execute_request(b"x", b"y", profile="shell")))
            await refused(client.tool.GetCall(tool_pb2.GetCallRequest(call_id="gone")))
            await refused(client.channel.unary_unary("/a.B/C")(b"\xff"))
            running.engine.calls_max = 0
            await refused(client.tool.Execute(execute_request(b"x")))
            found = [(body["reason"], body["asked"]) for body in own.of_kind("refused")]
            assert found == [
                ("AUDIT_NOT_GRANTED", {}),
                ("PROFILE_NOT_GRANTED", {"profile": "shell", "program": "x", "arguments": 1}),
                ("CALL_NOT_FOUND", {"call_id": "gone"}),
                ("METHOD_UNKNOWN", {}),
                ("CALLS_LIMIT", {"profile": "python", "program": "x", "arguments": 0}),
            ]
            assert {body["caller"]["pid"] for body in own.of_kind("refused")} == {os.getpid()}
            # An answer is none.
            running.engine.calls_max = 1
            await client.execute(b"echo")
            assert len(own.written) == 5

    run(main())


@pytest.mark.parametrize(("error", "count"), [(InputUnread, 0), (CallStateError, 1)])
def test_input_that_comes_after_the_end_is_no_refusal(
    error: type[CallStateError], count: int, tmp_path: Path
) -> None:
    async def write(*_: object, **__: object) -> int:
        raise error("STDIN_CLOSED", "closed")

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            running.engine.write_stdin = write  # type: ignore[method-assign]
            running.engine.owner = lambda _: "owner"  # type: ignore[method-assign]
            request = tool_pb2.WriteStdinRequest(call_id="x", data=b"x")
            assert (await refused(client.tool.WriteStdin(request))).reason == "STDIN_CLOSED"
            assert len(running.engine.store.own.of_kind("refused")) == count

    run(main())


def test_a_stranger(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"callers": [{"name": "other", "uid": os.getuid() + 1, "profiles": []}]}
        async with connected(tmp_path, config) as (running, client):
            await refused(client.tool.Execute(execute_request(b"x")))
            (body,) = running.engine.store.own.of_kind("unauthenticated")
            assert body["peer"]["uid"] == os.getuid()

    run(main())


def test_what_was_left_out_is_told_when_the_daemon_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_entries, "DROPPED_EVERY_S", 3600.0)

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            for _ in range(REASON_BURST + 3):
                await refused(client.tool.GetCall(tool_pb2.GetCallRequest(call_id="gone")))
            assert not own.of_kind("refusals_dropped")
        (body,) = own.of_kind("refusals_dropped")
        assert body["count"] == 3

    run(main())


def test_what_was_left_out_is_told_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_entries, "DROPPED_EVERY_S", 0.01)

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            while not own.of_kind("refusals_dropped"):
                await refused(client.tool.GetCall(tool_pb2.GetCallRequest(call_id="gone")))

    run(main())


@pytest.mark.parametrize("before", ["", "x " * (TEXT_MAX // 2 - 10)], ids=["alone", "at the cut"])
def test_what_was_asked_has_no_secret(before: str) -> None:
    shown = cleaned(
        asked_of(execute_request((before + TOKEN).encode(), profile=before + TOKEN)), CHOSEN.text
    )
    for name in ("profile", "program"):
        assert "ghp_" not in str(shown[name]) and "[REDACTED:git" in str(shown[name])


def test_what_no_entry_tells_is_not_looked_through(tmp_path: Path) -> None:
    """Looking for secrets takes time, and anybody may ask often."""

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            with mock.patch.object(type(running.engine.store.own.chosen), "text") as clean:
                await client.execute(b"echo", request_id=str(uuid.uuid4()))
                clean.assert_not_called()

    run(main())
