"""The sync client and the sinks of a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.client import Supervisor
from supervisor.errors import (
    CallStateError,
    HostError,
    NotFound,
    NotPermitted,
    OutOfRange,
    ProfileError,
    StockadeError,
    Unreachable,
)
from supervisor.v1 import export_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

NEXT_PAGE = "2 2-ab-0"


def refusing(code: str, reason: str) -> fake.Script:
    def script(_: Any) -> Any:
        raise Abort(code, reason)

    return script


def test_sinks(daemon: FakeDaemon, client: Supervisor) -> None:
    answer = export_pb2.ListSinksResponse(sinks=[fake.sink(), fake.sink(name="lake")])
    daemon.play("ListSinks", lambda _: answer)
    assert [sink.name for sink in client.sinks()] == ["siem", "lake"]


def test_a_test_is_followed_to_its_end(daemon: FakeDaemon, client: Supervisor) -> None:
    def script(_: Any) -> Iterator[export_pb2.TestSinkResponse]:
        yield export_pb2.TestSinkResponse(index=7, sink=fake.sink())
        yield export_pb2.TestSinkResponse(index=7, acknowledged=True, sink=fake.sink())

    daemon.play("TestSink", script)
    found = list(client.test_sink("siem", wait=2.5))
    assert [(one.index, one.acknowledged) for one in found] == [(7, False), (7, True)]
    (asked,) = daemon.asked("TestSink")
    assert (asked.sink, asked.wait.ToMilliseconds()) == ("siem", 2500)


def test_what_changes_something_is_not_repeated(daemon: FakeDaemon, client: Supervisor) -> None:
    def broken(_: Any) -> Any:
        raise Abort("UNAVAILABLE", message="Socket closed")

    def streaming(_: Any) -> Iterator[Any]:
        raise Abort("UNAVAILABLE", message="Socket closed")
        yield

    doing = {
        "TestSink": lambda: list(client.test_sink("siem")),
        "ReplaySink": lambda: client.replay_sink("siem", index=1),
        "RedeliverDeadLetters": lambda: list(client.redeliver("siem")),
        "DiscardDeadLetters": lambda: client.discard("siem"),
        "Reload": client.reload_sinks,
    }
    for method, do in doing.items():
        stream = method in ("TestSink", "RedeliverDeadLetters")
        daemon.play(method, streaming if stream else broken)
        with pytest.raises(Unreachable):
            do()
        assert len(daemon.asked(method)) == 1


def test_a_replay(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("ReplaySink", lambda _: export_pb2.ReplaySinkResponse(index=17, entries=3))
    found = client.replay_sink("siem", time_ns=9, dry_run=True)
    assert (found.index, found.entries) == (17, 3)
    assert daemon.asked("ReplaySink")[0].dry_run


def test_dead_letters_over_pages(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play(
        "ListDeadLetters",
        lambda _: export_pb2.ListDeadLettersResponse(
            letters=[fake.letter(1), fake.letter(2)], next_page_token=NEXT_PAGE
        ),
        lambda _: export_pb2.ListDeadLettersResponse(letters=[fake.letter(3)]),
    )
    assert [one.index for one in client.dead_letters("siem", entries=True)] == [1, 2, 3]
    first, second = daemon.asked("ListDeadLetters")
    assert (first.entries, first.uids, second.page_token) == (True, [], NEXT_PAGE)


def test_dead_letters_by_uid(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("ListDeadLetters", lambda _: export_pb2.ListDeadLettersResponse())
    list(client.dead_letters("siem", ["1-ab-0"]))
    assert daemon.asked("ListDeadLetters")[0].uids == ["1-ab-0"]


def test_redeliver_and_discard(daemon: FakeDaemon, client: Supervisor) -> None:
    def script(_: Any) -> Iterator[export_pb2.RedeliverDeadLettersResponse]:
        yield export_pb2.RedeliverDeadLettersResponse(letters=2)
        yield export_pb2.RedeliverDeadLettersResponse(letters=2, delivered=["1-ab-0", "2-ab-0"])

    daemon.play("RedeliverDeadLetters", script)
    daemon.play("DiscardDeadLetters", lambda _: export_pb2.DiscardDeadLettersResponse(discarded=4))
    assert [len(one.delivered) for one in client.redeliver("siem")] == [0, 2]
    list(client.redeliver("siem", ["1-ab-0"]))
    every, one = daemon.asked("RedeliverDeadLetters")
    assert (every.all, every.uids, one.all, one.uids) == (True, [], False, ["1-ab-0"])
    assert client.discard("siem", ["1-ab-0"]) == 4
    assert not daemon.asked("DiscardDeadLetters")[0].all


def test_none_is_not_all(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("DiscardDeadLetters", lambda _: export_pb2.DiscardDeadLettersResponse())
    client.discard("siem", [])
    assert not daemon.asked("DiscardDeadLetters")[0].all


def test_a_reload(daemon: FakeDaemon, client: Supervisor) -> None:
    daemon.play("Reload", lambda _: export_pb2.ReloadResponse(changed=["siem"]))
    assert client.reload_sinks().changed == ("siem",)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("PERMISSION_DENIED", "EXPORTS_NOT_GRANTED", NotPermitted),
        ("NOT_FOUND", "SINK_UNKNOWN", NotFound),
        ("OUT_OF_RANGE", "REPLAY_BEYOND_LOG", OutOfRange),
        ("FAILED_PRECONDITION", "SINK_NOT_RUNNING", CallStateError),
        ("FAILED_PRECONDITION", "CONFIG_INVALID", ProfileError),
        ("FAILED_PRECONDITION", "POLICY_WRITABLE", ProfileError),
        ("FAILED_PRECONDITION", "TLS_KEY_EXPOSED", ProfileError),
        ("FAILED_PRECONDITION", "SECRET_UNAVAILABLE", HostError),
    ],
)
def test_errors(
    daemon: FakeDaemon, client: Supervisor, code: str, reason: str, kind: type[StockadeError]
) -> None:
    daemon.play("Reload", refusing(code, reason))
    with pytest.raises(kind) as caught:
        client.reload_sinks()
    assert caught.value.reason == reason
