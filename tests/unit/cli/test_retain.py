"""`audit retain`, `hold`, `release` and `export-mark`, against a daemon that plays a script."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.cursors import Cursors
from supervisor.v1 import audit_pb2
from tests.support.records import begin, make_finished, opened
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import Abort, FakeDaemon


def answer(**more: Any) -> audit_pb2.GetRetentionResponse:
    going = [
        audit_pb2.Going(call_id="call-1", index=9, why="age", files=2, bytes=2048),
        audit_pb2.Going(index=11, why="size", files=1, bytes=1024),
    ]
    fields = {"going": going, "count": 2, "bytes": 3072, "contents_bytes": 10240, **more}
    return audit_pb2.GetRetentionResponse(**fields)


def test_what_would_go_and_why_not_more(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("GetRetention", lambda _: answer(rest="the next is young", held=3, count=60))
    result = stockade("audit", "retain", "--dry-run")
    assert result.exit_code == 0
    for said in ("call-1", "(upload)", "3.0 KiB of 10.0 KiB", "and 10 more", "3 held",
                 "not more: the next is young"):  # fmt: skip
        assert said in result.stdout, said
    told = json.loads(stockade("audit", "retain", "--dry-run", "--json").stdout)
    assert (told["count"], told["held"], told["going"][0]["call_id"]) == (60, 3, "call-1")


def test_why_nothing_goes(daemon: FakeDaemon, stockade: Stockade) -> None:
    empty = audit_pb2.GetRetentionResponse(problem="CLOCK_STEPPED: so", in_use=2)
    daemon.play("GetRetention", lambda _: empty)
    result = stockade("audit", "retain", "--dry-run")
    assert "nothing goes: CLOCK_STEPPED: so" in result.stdout
    assert "2 in use" in result.stdout


def test_it_is_only_ever_dry(daemon: FakeDaemon, stockade: Stockade) -> None:
    assert stockade("audit", "retain").exit_code == 2
    assert daemon.asked("GetRetention") == []


@pytest.mark.parametrize(
    ("verb", "rpc"), [("hold", "HoldContents"), ("release", "ReleaseContents")]
)
def test_hold_and_release(verb: str, rpc: str, daemon: FakeDaemon, stockade: Stockade) -> None:
    response = getattr(audit_pb2, f"{rpc}Response")(holds=2)
    daemon.play(rpc, lambda _: response)
    assert stockade("audit", verb, "call-1").exit_code == 2  # no reason
    done = stockade("audit", verb, "--why", "a case", "call-1")
    assert done.exit_code == 0
    assert "held (2 holds)" in done.stderr
    (request,) = daemon.asked(rpc)
    assert (request.call_id, request.why) == ("call-1", "a case")

    response.holds = 0
    assert "not held any more" in stockade("audit", verb, "--why", "x", "call-1").stderr
    told = json.loads(stockade("audit", verb, "--json", "--why", "x", "call-1").stdout)
    assert told == {"call_id": "call-1", "holds": 0}

    def refuse(_: Any) -> Any:
        raise Abort("FAILED_PRECONDITION", "CONTENT_REMOVED")

    daemon.play(rpc, refuse)
    assert stockade("audit", verb, "--why", "a case", "call-1").exit_code == 3


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def main() -> None:
        async with opened(tmp_path / "state") as store:
            await (await begin(store)).finish(make_finished())

    asyncio.run(main())
    return tmp_path / "state"


def test_an_exporter_says_how_far_it_is(stockade: Stockade, state: Path) -> None:
    mark = ("audit", "export-mark", "--state", str(state), "siem")
    for index in ("0", "1", "2"):
        assert stockade(*mark, index).exit_code == 0
        assert Cursors(state).read("siem").index == int(index)
    assert stockade(*mark, "3").exit_code == 3  # the log has 2
    assert stockade(*mark, "1").exit_code == 2  # never back
    assert stockade("audit", "export-mark", "--state", str(state), "../x", "1").exit_code == 2
    told = json.loads(stockade(*mark, "2", "--json").stdout)
    assert told == {"name": "siem", "index": 2}
    (state / "cursors" / "siem").write_text("?")
    assert stockade(*mark, "2").exit_code == 8
