"""`audit log`: the daemon's own entries as a list, whatever a caller put into them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.audit.entry import CALL_KINDS, Head, Kind, encode_entry
from supervisor.audit.rotation import rotate
from supervisor.cli import output as out
from supervisor.cli.events import KINDS
from supervisor.v1 import audit_pb2
from tests.unit.audit.keys import TestSigner
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon

ME = {"name": "me", "transport": "unix", "uid": 1, "gid": 1, "pid": 7, "certificate_name": ""}
WHY = "its head has another root: " + "x" * 200
PEER = {"transport": "unix", "address": "uid 9", "uid": 9, "gid": 9, "pid": 8}


def entries(*given: tuple[str, dict[str, Any]]) -> audit_pb2.ListEventsResponse:
    """Give a page, the newest last as it is written here."""
    page = audit_pb2.ListEventsResponse()
    for index, (kind, body) in reversed(list(enumerate(given))):
        head = Head(
            index=index, prev=bytes(32), time_ns=fake.START_NS, kind=kind, call="", sequence=0
        )
        entry = page.entries.add(index=index, kind=kind, json=encode_entry(head, body))
        entry.time.FromNanoseconds(fake.START_NS)
    return page


def policy(**digests: str) -> tuple[str, dict[str, Any]]:
    parts = {"configuration": "c" * 64, "callers": "d" * 64, "profiles": "e" * 64, **digests}
    return "policy", {f"{part}_sha256": value for part, value in parts.items()}


def rows(
    daemon: FakeDaemon, stockade: Stockade, *given: tuple[str, dict[str, Any]], options: Any = ()
) -> list[str]:
    daemon.play("ListEvents", lambda _: entries(*given))
    result = stockade("audit", "log", *options)
    assert result.exit_code == 0
    return result.stdout.splitlines()[1:]


def test_every_kind_of_the_daemon_s_own_can_be_asked_for() -> None:
    assert tuple(str(kind) for kind in Kind if kind not in CALL_KINDS) == KINDS


def test_what_it_asks_for(daemon: FakeDaemon, stockade: Stockade) -> None:
    given = (
        "-k",
        "read",
        "--since",
        "2026-01-31",
        "--until",
        "2026-02-01",
        "-n",
        "3",
        "--call",
        "c-1",
        "--caller",
        "me",
    )
    rows(daemon, stockade, options=given)
    (request,) = daemon.asked("ListEvents")
    assert (request.kind, request.page_size) == ("read", 3)
    assert (request.call_id, request.caller) == ("c-1", "me")
    assert (request.since.seconds, request.until.seconds) == (1769817600, 1769904000)
    assert stockade("audit", "log", "--kind", "outcome").exit_code == 2


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (
            "read",
            {"caller": ME, "rpc": "GetRecord", "of": {"call": "c-1", "profile": False}},
            ["me (pid 7)", "GetRecord call=c-1\n"],
        ),
        (
            "read",
            {"caller": ME, "rpc": "ListRecords", "of": {"filter": {"to": "h:1"}}},
            ["ListRecords to=h:1"],
        ),
        (
            "read",
            {"caller": ME, "rpc": "ListRecords", "of": {"filter": {}}},
            ["ListRecords everything"],
        ),
        (
            "refused",
            {"caller": ME, "peer": PEER, "reason": "R", "rpc": "/a.B/C", "asked": {"profile": "p"}},
            ["me (pid 7)", "R C profile=p"],
        ),
        (
            "unauthenticated",
            {"caller": None, "peer": PEER, "reason": "R", "rpc": "/a.B/C", "certificate": ""},
            ["uid 9", "R C"],
        ),
        (
            "refusals_dropped",
            {"count": 9, "of": [{"kind": "k", "reason": "R", "who": "me", "count": 2}] * 5},
            ["9 refusals: 2 R of me, 2 R of me, 2 R of me, and 2 more"],
        ),
        (
            "read",
            {"caller": ME, "rpc": "ListEvents", "of": {"filter": {"since_ns": fake.START_NS}}},
            ["ListEvents since=2023-11-14 22:13:20Z\n"],
        ),
        (
            "key_rotated",
            {"statement": rotate(TestSigner(), TestSigner(seed=bytes(32)), 7)["statement"]},
            [
                f"key {TestSigner().key.key_id.hex()}  ",
                f"from {TestSigner().key.key_id.hex()} to {TestSigner(seed=bytes(32)).key}",
            ],
        ),
        ("key_rotated", {"statement": "v1\nlog\n7\nlog+id+key\n\n— log x\n"}, ["to log+id+key"]),
        (
            "head_contradicted",
            {"witness": "file h", "size": 9, "root": "r", "why": WHY},
            ["witness file h  ", f"{WHY} (size=9 root=r)"],
        ),
        ("key_rotated", {"statement": "of a newer one"}, ["statement=of a newer one"]),
        ("blob", {"sha256": "ab", "size_bytes": 2, "caller": "me"}, ["me", "sha256=ab"]),
        ("daemon_started", {"pid": 3, "host": {"a": 1}}, ['pid=3', 'host={"a": 1}']),
        ("of_a_newer_daemon", {"x": [1]}, ["of_a_newer_daemon", "x=[1]"]),
    ],
)  # fmt: skip
def test_who_and_what(
    kind: str, body: dict[str, Any], told: list[str], daemon: FakeDaemon, stockade: Stockade
) -> None:
    (row,) = rows(daemon, stockade, (kind, body))
    for part in told:
        assert part in f"{row}\n"


@pytest.mark.parametrize(("width", "is_whole"), [(None, True), (80, False)])
def test_only_a_terminal_is_given_less(
    width: int | None,
    is_whole: bool,
    daemon: FakeDaemon,
    stockade: Stockade,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(out, "columns", lambda: width)
    (row,) = rows(daemon, stockade, ("daemon_stopped", {"why": WHY}))
    assert (WHY in row) is is_whole
    contradicted = {"witness": "file h", "size": 9, "root": "r", "why": WHY}
    (row,) = rows(daemon, stockade, ("head_contradicted", contradicted))
    assert WHY in row


def test_what_changed_between_two_starts(daemon: FakeDaemon, stockade: Stockade) -> None:
    found = rows(
        daemon,
        stockade,
        policy(),
        policy(),
        ("refused", {"caller": ME}),
        policy(callers="f" * 64),
    )
    newest, _, same, oldest = found
    assert "changed: callers;" in newest
    assert "unchanged" in same
    assert "changed" not in oldest


def test_a_terminal_obeys_nothing_of_it(daemon: FakeDaemon, stockade: Stockade) -> None:
    asked = {"profile": "\x1b[2J\nINDEX"}
    found = rows(daemon, stockade, ("refused", {"caller": ME, "asked": asked}))
    assert len(found) == 1
    assert found[0].isprintable()


def test_json(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("ListEvents", lambda _: entries(policy()))
    (found,) = json.loads(stockade("audit", "log", "--json").stdout)
    assert found["kind"] == "policy"
    assert json.loads(found["json"])["body"]["callers_sha256"] == "d" * 64
