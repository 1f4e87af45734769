"""`profile why`: asked of a folder, a daemon, or about a call of the record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.cli.folders import shipped_profiles
from supervisor.engine.engine import new_call_id
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.v1 import audit_pb2, profile_pb2
from tests.support.records import begin, make_finished, opened
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

CALL = new_call_id()
DIR = ("--dir", str(shipped_profiles()))
DENIED = (
    Denied(wall=Wall.NETWORK, name="dns", detail="evil.example.com A", rule="egress: no rule"),
    Denied(wall=Wall.SYSCALL, name="kcmp", rule="syscalls.allow: kcmp is not in it", count=2),
    Denied(wall=Wall.SYSCALL, name="kcmp", rule="syscalls.allow: kcmp is not in it", count=3),
)


def github() -> EffectiveProfile:
    return ProfileSet.load([shipped_profiles()]).effective("github")


def test_what_is_allowed(stockade: Stockade) -> None:
    result = stockade("profile", "why", *DIR, "github", "API.github.com:443")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "api.github.com:443: allowed"
    assert "  decided by    github.yaml:7\n" in result.stdout
    assert '{host: api.github.com, port: 443, why: "the REST API' in result.stdout
    assert "the TLS server name must be this host's" in result.stdout


@pytest.mark.parametrize(
    ("what", "line", "said"),
    [
        ("api.github.com:80", "api.github.com:80: denied", "nearest       github.yaml:7"),
        ("api.gihtub.com:443", "api.gihtub.com:443: denied", "did you mean 'api.github.com'?"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443: denied", 'cidr: "2001:db8::1/128"'),
        ("kcmp", "kcmp: denied", "{name: kcmp"),
        ("/etc/passwd", "/etc/passwd: denied", "decided by    base.yaml:"),
    ],
)
def test_what_is_denied(stockade: Stockade, what: str, line: str, said: str) -> None:
    result = stockade("profile", "why", *DIR, "github", what)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == line
    assert said in result.stdout


def test_as_json(stockade: Stockade) -> None:
    found = json.loads(
        stockade("profile", "why", "--json", *DIR, "github", "api.github.com:80").stdout
    )
    assert list(found) == ["asked", "allowed", "why", "rule", "decided", "nearest", "hint"]
    assert (found["allowed"], found["decided"]) == (False, None)
    assert (found["nearest"]["file"], found["nearest"]["line"]) == ("github.yaml", 7)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give PROFILE and WHAT"),
        (("a", "b", "c"), "give PROFILE and WHAT"),
        (("api.github.com:443",), "is no CALL"),
        (("--alone", "github", "read"), "--alone is for --dir"),
        (("--state", ".", "github", "read"), "--state is for CALL"),
        ((*DIR, "github", "raed"), "did you mean 'read'"),
        ((*DIR, "github", "api.github.com"), "as in api.github.com:443"),
        ((*DIR, "github", "127.1:80"), "is an address, not a name"),
    ],
)
def test_what_cannot_be_asked(stockade: Stockade, words: tuple[str, ...], said: str) -> None:
    result = stockade("profile", "why", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_no_such_profile(stockade: Stockade) -> None:
    assert stockade("profile", "why", *DIR, "githbu", "read").exit_code == 3


def play_profile(daemon: FakeDaemon, profile: EffectiveProfile) -> None:
    summary = profile_pb2.ProfileSummary(
        name=profile.name, why=profile.why, digest=profile.digest, mode=profile.mode
    )
    lines = [
        profile_pb2.ProfileLine(
            path=line.path, value_json=json.dumps(line.value), file=line.file, line=line.line
        )
        for line in profile.lines
    ]
    answer = profile_pb2.GetProfileResponse(
        summary=summary, canonical_json=profile.canonical, lines=lines
    )
    daemon.play("GetProfile", lambda _: answer)


def play_record(daemon: FakeDaemon, ran: EffectiveProfile, *denied: Denied) -> None:
    def record(request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        raws = [json.dumps({"body": body(one)}).encode() for one in denied]
        entries = [
            audit_pb2.RecordEntry(
                index=place, sequence=place, kind="denied", json=raw, leaf=fake.blob(raw)
            )
            for place, raw in enumerate(raws, 1)
        ]
        return audit_pb2.GetRecordResponse(
            call=fake.call(call_id=CALL, profile=ran.name, profile_digest=ran.digest),
            entries=entries,
            profile_json=ran.canonical if request.profile else b"",
        )

    daemon.play("GetRecord", record)


def body(denied: Denied) -> dict[str, Any]:
    return {
        "wall": str(denied.wall), "name": denied.name, "detail": denied.detail,
        "rule": denied.rule, "count": denied.count, "used": 0, "allowed": 0,
    }  # fmt: skip


def test_asked_of_the_daemon(daemon: FakeDaemon, stockade: Stockade) -> None:
    play_profile(daemon, github())
    result = stockade("profile", "why", "github", "api.github.com:443")
    assert result.exit_code == 0
    assert "decided by    github.yaml:7" in result.stdout


def test_the_denials_of_a_call(daemon: FakeDaemon, stockade: Stockade) -> None:
    play_profile(daemon, github())
    play_record(daemon, github(), *DENIED)
    result = stockade("profile", "why", CALL)
    assert result.exit_code == 1
    heads = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["network dns evil.example.com A: denied", "syscall kcmp: denied, 5 times"]
    assert "egress: [{host: evil.example.com" in result.stdout
    found = json.loads(stockade("profile", "why", "--json", CALL).stdout)
    assert [(one["count"], one["rule"]) for one in found] == [
        (1, "egress: no rule"), (5, "syscalls.allow: kcmp is not in it"),
    ]  # fmt: skip
    assert not found[0]["answer"]["allowed"]


def test_a_call_without_denials(daemon: FakeDaemon, stockade: Stockade) -> None:
    play_profile(daemon, github())
    play_record(daemon, github())
    result = stockade("profile", "why", CALL)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was denied" in result.stderr


LIMITED = Denied(wall=Wall.LIMIT, name="egress", rule="limits.egress", used=2, allowed=1)


def test_a_profile_that_is_another_now(daemon: FakeDaemon, stockade: Stockade) -> None:
    play_profile(daemon, ProfileSet.load([shipped_profiles()]).effective("python"))
    reached = Denied(wall=Wall.NETWORK, name="dial", detail="api.github.com:443 is private")
    play_record(daemon, github(), reached)
    result = stockade("profile", "why", CALL)
    assert result.exit_code == 1
    assert "profile github is another now" in result.stderr
    assert "decided by    egress[0]" in result.stdout
    assert "is private; " in result.stdout


def test_a_profile_that_is_gone(daemon: FakeDaemon, stockade: Stockade) -> None:
    def gone(_: object) -> None:
        raise Abort("NOT_FOUND", "PROFILE_NOT_FOUND", "there is no profile")

    daemon.play("GetProfile", gone)
    play_record(daemon, github(), LIMITED)
    result = stockade("profile", "why", CALL)
    assert result.exit_code == 1
    assert "no file and line: profile github: there is no profile" in result.stderr


def test_a_call_judged_by_what_a_profile_says_now(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    play_record(daemon, github(), *DENIED[1:])
    (tmp_path / "more.yaml").write_text(
        "profile: more\nextends: github\nwhy: Mine.\n"
        "syscalls: {allow: [{name: kcmp, why: A test.}]}\n"
    )
    result = stockade("profile", "why", "--dir", tmp_path, "more", CALL)
    assert result.exit_code == 0
    assert "syscall kcmp: allowed, 5 times" in result.stdout
    assert "decided by    more.yaml:4" in result.stdout


def test_out_of_a_state_folder(stockade: Stockade, tmp_path: Path) -> None:
    async def fill() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, CALL, profile=github())
            for denied in DENIED:
                recorder.tell([denied])
            await recorder.finish(make_finished())

    asyncio.run(fill())
    result = stockade("profile", "why", "--state", tmp_path, *DIR, CALL)
    assert result.exit_code == 1
    assert "syscall kcmp: denied, 5 times" in result.stdout
    assert result.stderr == ""
    unknown = stockade("profile", "why", "--state", tmp_path, *DIR, new_call_id())
    assert unknown.exit_code == 3
    nothing = stockade("profile", "why", "--state", tmp_path / "log", *DIR, CALL)
    assert nothing.exit_code == 2
