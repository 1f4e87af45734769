"""`stockade export dlq`: what a sink refused for good, whatever the other side said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.v1 import export_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

HOSTILE = "too large\x1b[1m\nUID  forged"


def holding(daemon: FakeDaemon, *letters: export_pb2.DeadLetter) -> None:
    daemon.play(
        "ListDeadLetters", lambda _: export_pb2.ListDeadLettersResponse(letters=list(letters))
    )


def test_list(daemon: FakeDaemon, stockade: Stockade) -> None:
    holding(daemon, fake.letter(7, why=HOSTILE, call_id="call-1"), fake.letter(9, kind="read"))
    result = stockade("export", "dlq", "list", "siem")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["UID", "ENTRY", "KIND", "CALL", "REFUSED", "WHY"]
    assert first.split()[:4] == ["7-ab-0", "7", "output", "call-1"]
    assert first.endswith("too large\\e[1m\\nUID  forged")
    assert second.split()[:3] == ["9-ab-0", "9", "read"]
    (asked,) = daemon.asked("ListDeadLetters")
    assert (asked.sink, asked.page_size, asked.entries) == ("siem", 50, True)


def test_list_as_json(daemon: FakeDaemon, stockade: Stockade) -> None:
    holding(daemon, fake.letter(7, why=HOSTILE))
    (found,) = json.loads(stockade("export", "dlq", "list", "--json", "siem").stdout)
    assert (found["index"], found["uid"], found["why"]) == (7, "7-ab-0", HOSTILE)
    assert found["time"].startswith("2023-11-14T")


def test_list_says_where_it_ends(daemon: FakeDaemon, stockade: Stockade) -> None:
    holding(daemon, fake.letter(7))
    assert "there may be more" in stockade("export", "dlq", "list", "-n", "1", "siem").stderr
    holding(daemon)
    result = stockade("export", "dlq", "list", "siem")
    assert (result.exit_code, result.stderr) == (0, "stockade: no dead letters\n")


def test_show(daemon: FakeDaemon, stockade: Stockade) -> None:
    holding(daemon, fake.letter(7, why="x" * 300 + HOSTILE, call_id="call-1"))
    result = stockade("export", "dlq", "show", "siem", "--uid", "7-ab-0")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:3] == [["7-ab-0"], ["entry", "7", "output"], ["call", "call-1"]]
    assert "x" * 300 + "too large\\e[1m\\nUID" in result.stdout
    assert daemon.asked("ListDeadLetters")[0].uids == ["7-ab-0"]
    assert stockade("export", "dlq", "show", "siem", "--all").exit_code == 0
    assert daemon.asked("ListDeadLetters")[1].uids == []
    as_json = stockade("export", "dlq", "show", "siem", "--all", "--json")
    assert json.loads(as_json.stdout)[0]["call_id"] == "call-1"


@pytest.mark.parametrize("verb", ["show", "replay", "discard"])
def test_which_has_to_be_said(daemon: FakeDaemon, stockade: Stockade, verb: str) -> None:
    assert stockade("export", "dlq", verb, "siem").exit_code == 2
    assert stockade("export", "dlq", verb, "siem", "--all", "--uid", "7-ab-0").exit_code == 2
    assert daemon.requests == []


def sending(daemon: FakeDaemon, *answers: dict[str, Any]) -> None:
    def script(_: Any) -> Iterator[export_pb2.RedeliverDeadLettersResponse]:
        yield export_pb2.RedeliverDeadLettersResponse(letters=3)
        for answer in answers:
            yield export_pb2.RedeliverDeadLettersResponse(letters=3, **answer)

    daemon.play("RedeliverDeadLetters", script)


def test_replay(daemon: FakeDaemon, stockade: Stockade) -> None:
    sending(daemon, {"delivered": ["1-ab-0", "2-ab-0"]}, {"delivered": ["3-ab-0"]})
    result = stockade("export", "dlq", "replay", "siem", "--all")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "stockade: 3 of 3 dead letters arrived\n"
    assert daemon.asked("RedeliverDeadLetters")[0].all


def test_replay_of_what_is_refused_again(daemon: FakeDaemon, stockade: Stockade) -> None:
    answers = {"delivered": ["1-ab-0"]}, {"refused": [fake.letter(2, why=HOSTILE), fake.letter(3)]}
    sending(daemon, *answers)
    result = stockade("export", "dlq", "replay", "siem", "--uid", "1-ab-0", "--uid", "2-ab-0")
    assert result.exit_code == 1
    header, first, _ = result.stdout.splitlines()
    assert header.split() == ["UID", "ENTRY", "WHY"]
    assert first.endswith("too large\\e[1m\\nUID  forged")
    assert result.stderr == "stockade: 1 of 3 dead letters arrived\n"
    assert daemon.asked("RedeliverDeadLetters")[0].uids == ["1-ab-0", "2-ab-0"]
    as_json = stockade("export", "dlq", "replay", "siem", "--all", "--json")
    found = json.loads(as_json.stdout)
    assert (as_json.exit_code, found["letters"], found["delivered"]) == (1, 3, ["1-ab-0"])
    assert [one["index"] for one in found["refused"]] == [2, 3]


def test_replay_where_the_process_does_not_run(daemon: FakeDaemon, stockade: Stockade) -> None:
    def script(_: Any) -> Iterator[Any]:
        raise Abort("FAILED_PRECONDITION", "SINK_NOT_RUNNING", "it ended", retry_s=1)
        yield

    daemon.play("RedeliverDeadLetters", script)
    result = stockade("export", "dlq", "replay", "siem", "--all")
    assert (result.exit_code, "it ended" in result.stderr) == (3, True)


def test_discard(daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.play("DiscardDeadLetters", lambda _: export_pb2.DiscardDeadLettersResponse(discarded=2))
    which = ["export", "dlq", "discard", "siem"]
    assert stockade(*which, "--all").exit_code == 2
    assert daemon.asked("DiscardDeadLetters") == []
    result = stockade(*which, "--all", "--yes")
    assert (result.exit_code, result.stderr) == (0, "stockade: 2 dead letters of siem given up\n")
    as_json = stockade(*which, "--uid", "7-ab-0", "-y", "--json")
    assert json.loads(as_json.stdout) == {"discarded": 2}
    monkeypatch.setattr("supervisor.cli.standard.asks", lambda: True)
    no = stockade(*which, "--uid", "7-ab-0", stdin=b"n\n")
    assert (no.exit_code, "1 dead letter of siem will never be sent again" in no.stderr) == (
        1,
        True,
    )
    every, one = daemon.asked("DiscardDeadLetters")
    assert (every.all, every.uids, one.all, one.uids) == (True, [], False, ["7-ab-0"])
