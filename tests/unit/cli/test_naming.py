"""A call is named by the beginning of its id, where one alone begins so."""

from __future__ import annotations

import pytest

from supervisor.v1 import audit_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.cli.record import response
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

IDS = ("019a21de-8f10-7b4e-9a55-3f0c8d2e71b6", "019a21de-9d2c-7000-8000-3f0c8d2e71b6",
       "019a21df-0000-7000-8000-3f0c8d2e71b6")  # fmt: skip
MADE_MS = 0x019A21DE0000


@pytest.fixture
def recorded(daemon: FakeDaemon) -> FakeDaemon:
    calls = [fake.call(call_id=name) for name in IDS]

    def give(request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        if request.call_id not in IDS:
            raise Abort("NOT_FOUND", "RECORD_NOT_FOUND")
        return response()

    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse(records=calls))
    daemon.play("GetRecord", give)
    return daemon


@pytest.mark.parametrize(
    ("given", "meant"),
    [("019a21de-8", IDS[0]), ("019a21df", IDS[2]), (IDS[1], IDS[1]), (IDS[0][:-1], IDS[0])],
)
def test_the_one_that_begins_so(
    recorded: FakeDaemon, stockade: Stockade, given: str, meant: str
) -> None:
    assert stockade("audit", "show", given).exit_code == 0
    assert {request.call_id for request in recorded.asked("GetRecord")} == {meant}
    assert len(recorded.asked("ListRecords")) == (given != meant)


def test_only_the_time_is_looked_at_that_it_tells(recorded: FakeDaemon, stockade: Stockade) -> None:
    stockade("audit", "show", "019a21de-8")
    (request,) = recorded.asked("ListRecords")
    assert request.since.ToMilliseconds() == MADE_MS + 0x8000 - 60_000
    assert request.until.ToMilliseconds() == MADE_MS + 0x8FFF + 60_000


@pytest.mark.parametrize("verb", ["show", "cat", "replay", "rerun"])
def test_several(recorded: FakeDaemon, stockade: Stockade, verb: str) -> None:
    result = stockade("audit", verb, "019a21de")
    assert (result.exit_code, recorded.asked("GetRecord")) == (2, [])
    assert "2 calls begin with '019a21de' [CALL_AMBIGUOUS]" in result.stderr
    assert f"give more of it, as in {IDS[0]} or {IDS[1]}" in result.stderr


@pytest.mark.parametrize("given", ["nonsense", "019a21d", "01a21de8", "019A21DE"])
def test_none(recorded: FakeDaemon, stockade: Stockade, given: str) -> None:
    result = stockade("audit", "show", given)
    assert result.exit_code == 3
    assert recorded.asked("GetRecord")[0].call_id == given
