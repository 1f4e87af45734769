"""`audit what-if`: which calls are judged, by which profile, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.codec import denied_to_json, finished_to_json
from supervisor.call.events import Denied, Wall
from supervisor.call.types import CallRequest
from supervisor.cli import what_if
from supervisor.cli.folders import shipped_profiles
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.v1 import audit_pb2
from tests.support.records import make_finished
from tests.unit.cli.conftest import Stockade
from tests.unit.cli.record import written_response
from tests.unit.cli.test_why import play_profile
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

EVIL = "\x1b[2J"
REQUEST = json.loads(CallRequest(request_id="r", profile="base", argv=(b"x",)).canonical())


def shipped(name: str) -> EffectiveProfile:
    return ProfileSet.load([shipped_profiles()]).effective(name)


@pytest.fixture
def world(daemon: FakeDaemon) -> FakeDaemon:
    """Three calls: two of base, of which one was denied a name, and one of github."""
    base, github = shipped("base"), shipped("github")
    ran = {"a": base, "b": base, "c": github}

    def listed(request: audit_pb2.ListRecordsRequest) -> audit_pb2.ListRecordsResponse:
        records = [
            fake.call(call_id=name, profile=of.name, profile_digest=of.digest)
            for name, of in ran.items()
        ]
        return audit_pb2.ListRecordsResponse(records=records[: request.page_size])

    def record(request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        name = request.call_id
        denied = Denied(wall=Wall.NETWORK, name="dns", detail="api.github.com A")
        told = [(1, "denied", denied_to_json(denied))] if name == "a" else []
        ended: Any = finished_to_json(make_finished())
        made = written_response(
            (0, "intent", {"request": REQUEST}), *told, (2, "outcome", ended),
            finished=fake.finish(),
        )  # fmt: skip
        made.call.call_id, made.call.profile_digest = name, ran[name].digest
        if request.profile:
            made.profile_json = ran[name].canonical
        return made

    daemon.play("ListRecords", listed)
    daemon.play("GetRecord", record)
    play_profile(daemon, github)
    return daemon


def test_calls_are_judged_by_the_daemons_profile(world: FakeDaemon, stockade: Stockade) -> None:
    result = stockade("audit", "what-if", "--json", "github")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert list(told) == ["profile", "digest", "summary", "calls"]
    assert told["digest"] == shipped("github").digest
    assert (told["summary"]["calls"], told["summary"]["let_through"]) == (3, 1)
    first = told["calls"][0]
    assert list(first) == [
        "call_id", "accepted", "profile", "profile_digest", "as_before", "let_through", "denied",
        "unknown",
    ]  # fmt: skip
    assert first["let_through"] == [
        {"what": "network", "of": "dns api.github.com A x1", "why": "api.github.com:443"}
    ]
    # Of the very same profile nothing is read, and each other profile once.
    asked = world.asked("GetRecord")
    assert {request.call_id for request in asked} == {"a", "b"}
    assert sum(request.profile for request in asked) == 1


def test_the_range_goes_to_the_daemon(world: FakeDaemon, stockade: Stockade) -> None:
    result = stockade(
        "audit", "what-if", "github", "-p", "base", "--since", "1970-01-02", "--until",
        "1970-01-03", "-n", "1",
    )  # fmt: skip
    assert "there are more calls: these are the newest 1; see --limit" in result.stderr
    assert result.stdout.splitlines()[-1].startswith("1 call: 0 as before")
    (asked,) = world.asked("ListRecords")
    assert (asked.profile, asked.since.seconds, asked.until.seconds) == ("base", 86400, 2 * 86400)


def test_a_file_builds_on_the_configured_folders(
    world: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"profiles": [str(shipped_profiles())]}))
    file = tmp_path / "github.yaml"
    file.write_text("profile: github\nextends: base\nwhy: x\nenv: {A: x}\n")
    result = stockade("audit", "what-if", "--json", file, "--config", config)
    assert json.loads(result.stdout)["calls"][2]["as_before"] is False
    assert world.asked("GetProfile") == []
    file.write_text("profile: github\n")
    assert stockade("audit", "what-if", file, "--config", config).exit_code == 2
    assert stockade("audit", "what-if", tmp_path / "no.yaml", "--config", config).exit_code == 3
    assert stockade("audit", "what-if", "github", "--config", config).exit_code == 2


def test_a_record_that_cannot_be_read_is_told_and_the_others_are(
    world: FakeDaemon, stockade: Stockade
) -> None:
    def damaged(_: object) -> Any:
        raise Abort("DATA_LOSS", "CHAIN_BROKEN", f"bad{EVIL}")

    world.play("GetRecord", damaged)
    result = stockade("audit", "what-if", "github")
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows if "CHAIN_BROKEN" in row] == ["a", "b"]
    assert result.stdout.splitlines()[-1] == (
        "3 calls: 1 as before, 0 would be denied something, 0 let through more, "
        "of 2 not everything can be told"
    )


def test_it_says_how_far_it_is(
    world: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(what_if, "PROGRESS_S", 0.0)
    assert "1 of 3 calls" in stockade("audit", "what-if", "github").stderr


def test_no_calls_are_as_before(world: FakeDaemon, stockade: Stockade) -> None:
    world.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse())
    result = stockade("audit", "what-if", "github")
    assert (result.exit_code, result.stderr) == (0, "")
