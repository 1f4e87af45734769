"""`profile learn`: what is gathered from a record, and what is said of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click
import pytest

from supervisor.cli.learn import Entry, command, evidence
from supervisor.v1 import audit_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon

OBSERVING = json.dumps(
    {
        "name": "base", "why": "A test.", "require": [], "runtime": "runc", "image": "host",
        "files": {
            "read": [],
            "write": [{"path": "/work", "size_bytes": 65536, "exec": False, "why": ""}],
        },
        "syscalls": {
            "allow": ["read", "getppid", "inotify_init"], "kill": [], "sets": ["@process"],
            "watch": [], "why": {}, "written": {"allow": ["read"], "sets": []},
        },
        "env": {},
        "limits": {
            "wall_s": 60.0, "cpu_s": 30.0, "memory_bytes": 1 << 29, "pids": 64, "files": 256,
            "output_bytes": 1 << 24,
        },
        "record": {
            name: {"mode": "full", "bytes_max": None} for name in ("stdin", "stdout", "stderr")
        },
        "mode": "observe",
    }
).encode()  # fmt: skip
DIGEST = hashlib.sha256(OBSERVING).hexdigest()


def watched(name: str, count: int = 1, *arguments: int, **more: Any) -> Entry:
    return "watched", {"name": name, "arguments": list(arguments), "count": count, **more}


def denied(name: str, rule: str = "syscalls.allow: x is not in it", **more: Any) -> Entry:
    body = {"wall": "syscall", "name": name, "detail": "", "count": 1, "rule": rule}
    return "denied", {**body, **more}


def whole(*entries: Entry, digest: str = DIGEST, end: str = "exited", **more: Any) -> list[Entry]:
    intent: Entry = ("intent", {"profile": {"name": "base", "digest": digest, "mode": "observe"}})
    outcome: Entry = ("outcome", {"outcome": {"kind": end, **more}})
    return [intent, ("started", {}), *entries, outcome]


def test_what_calls_did_is_added_up() -> None:
    started = {"what": "started", "path": "/usr/bin/sh", "argv": [], "pid": 7}
    cell = {"what": "started", "path": "/.stockade/cell", "argv": [], "pid": 6}
    ended = {"what": "ended", "pid": 7, "code": 0}
    one = whole(
        watched("getppid", 1, 0), watched("getppid", 4999), watched("socket", 1, 2, 1, 0),
        watched("socket", 3, 1), watched("ptrace", killed=True),
        denied("memfd_create", count=2),
        denied("clone", "syscalls.allow: clone, but not with these arguments", detail="clone(X)"),
        denied("connect", wall="network", detail="203.0.113.9:443 tcp"),
        denied("dns", wall="network", detail="evil.example.com A", count=2),
        denied("dns", wall="network", detail="evil.example.com AAAA"),
        denied("dial", wall="network", detail="evil.example.com:443 leads to a private address"),
        denied("connect", wall="network", detail="b.example.com:22 no more connections"),
        denied("connect", wall="network", detail="[2001:db8::9]:443 tcp"),
        denied("dial", wall="network", detail="198.51.100.7:5432 no answer is allowed"),
        denied("sendmsg", wall="network", detail="203.0.113.9:53 udp"),
        denied("connect", wall="network", detail="with other arguments"),
        denied("tls", wall="network", detail="api.example.com:443 names evil.example.com"),
        denied("memory", wall="limit"),
        denied("exec", wall="program", detail="/work/x", count=2),
        ("processes", {"events": [cell, started, ended]}),
    )  # fmt: skip
    found = evidence({"a": one, "b": whole(watched("getppid", 1), ("processes", {"events": []}))})
    assert found.calls == ["a", "b"]
    assert found.made == {"getppid": 5001, "socket": 4}
    assert found.families == {1, 2}
    assert found.denied == {"memfd_create": 2, "ptrace": 1}
    assert found.denied_arguments == {"clone(X)": 1}
    assert found.hosts == {"evil.example.com": 4, "b.example.com": 1}
    assert found.destinations == {
        "connect 203.0.113.9:443 tcp": 1,
        "connect [2001:db8::9]:443 tcp": 1,
        "connect with other arguments": 1,
        "dial 198.51.100.7:5432 no answer is allowed": 1,
        "sendmsg 203.0.113.9:53 udp": 1,
        "tls api.example.com:443 names evil.example.com": 1,
    }
    assert found.others == {"limit memory": 1, "program exec /work/x": 2}
    assert found.programs == {"/usr/bin/sh": 1}
    assert found.incomplete == []


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (whole()[:-1], "a has not ended"),
        ([whole()[0], whole()[-1]], "a never started"),
        (whole(end="interrupted"), "a was interrupted"),
        (whole(end="timed_out", limit_s=1.0), "a timed out"),
        (whole(end="out_of_memory"), "a ran out of memory"),
        (whole(end="limit_exceeded", limit="output"), "a reached its output limit"),
        (whole(end="stopped", by="agent", reason="SIGNAL", signal=9), "a was stopped (SIGNAL)"),
        (whole(end="stopped", reason="SYSCALL_KILL"), "a was stopped (SYSCALL_KILL)"),
        (whole(end="failed", reason="WALL_NOT_STANDING"), "a failed (WALL_NOT_STANDING)"),
        (whole(end="failed", reason="EXEC_FAILED"), "a ran no program (EXEC_FAILED)"),
        (whole(end="vanished"), "a ended in a way that is not known here (vanished)"),
        (whole(("lost", {"what": "exec", "count": 3, "reason": "r"})), "a lost 3 of exec"),
        (
            whole(("lost", {"what": "probe events", "count": 0, "reason": "r"})),
            "a lost an unknown number of probe events",
        ),
    ],
)
def test_why_there_may_be_more(entries: list[Entry], why: str) -> None:
    assert evidence({"a": entries}).incomplete == [why]


@pytest.mark.parametrize("end", ["exited", "signaled"])
def test_a_call_that_ended_by_itself_is_whole(end: str) -> None:
    assert evidence({"a": whole(end=end, code=1, signal=11)}).incomplete == []


def play(daemon: FakeDaemon, calls: dict[str, list[Entry]], profile: bytes = OBSERVING) -> None:
    def record(request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        entries = []
        for sequence, (kind, body) in enumerate(calls[request.call_id], 1):
            raw = json.dumps({"body": body}).encode()
            entries.append(
                audit_pb2.RecordEntry(
                    index=sequence, sequence=sequence, kind=kind, json=raw, leaf=fake.blob(raw)
                )
            )
        return audit_pb2.GetRecordResponse(
            call=fake.call(profile_digest=DIGEST),
            entries=entries,
            profile_json=profile if request.profile else b"",
        )

    daemon.play("GetRecord", record)


def test_the_difference_or_the_whole(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    play(daemon, {"a": whole(watched("getppid", 7)), "b": whole(watched("inotify_init"))})
    shown = stockade("profile", "learn", "a", "b", "a")
    assert shown.exit_code == 0
    assert '+  allow: ["@start", {name: getppid, why: "made 7 times"},' in shown.stdout
    assert "base: 3 entries of system calls" in shown.stderr
    text = stockade("profile", "learn", "-o", "-", "a", "b").stdout
    file = tmp_path / "base.yaml"
    assert stockade("profile", "learn", "-o", file, "a", "b").stdout == ""
    assert file.read_text() == text
    assert stockade("profile", "lint", "--alone", file).exit_code == 0
    again = stockade("profile", "learn", "-o", file, "a")
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert file.read_text() == text
    document = json.loads(stockade("profile", "learn", "--json", "a", "b").stdout)
    assert document["text"] == text
    assert document["cover"]["sets"] == ["@start"]
    assert document["incomplete"] == []


def test_a_file_gives_the_profile_its_name(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    play(daemon, {"a": whole(watched("getppid", 7))})
    file = tmp_path / "other.yaml"
    document = json.loads(stockade("profile", "learn", "--json", "-o", file, "a").stdout)
    assert file.read_text() == document["text"]
    assert "\nprofile: other\n" in document["text"]
    assert "-profile: base\n" in document["diff"]
    assert "+profile: other\n" in document["diff"]
    assert "+++ other.yaml learned" in document["diff"]
    assert document["name"] == "other"
    assert stockade("profile", "lint", "--alone", file).exit_code == 0
    again = stockade("profile", "learn", "-o", file, "a")
    assert again.exit_code == 2
    proposed = tmp_path / "other-learned.yaml"
    assert f"-o {proposed}" in again.stderr
    assert stockade("profile", "learn", "-o", proposed, "a").exit_code == 0
    assert stockade("profile", "lint", "--alone", proposed).exit_code == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("report.yml", "OUTPUT_NAME"),
        ("report", "OUTPUT_NAME"),
        ("My Report.yaml", "OUTPUT_NAME"),
        (".yaml", "OUTPUT_NAME"),
        ("nodir/x.yaml", "OUTPUT_FOLDER"),
    ],
)
def test_a_file_that_no_profile_can_be_in(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path, name: str, reason: str
) -> None:
    play(daemon, {"a": whole(watched("getppid", 7))})
    result = stockade("profile", "learn", "-o", tmp_path / name, "a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_was_cut_short_has_an_exit_code(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, {"a": whole(watched("getppid"), end="failed", reason="WALL_NOT_STANDING")})
    result = stockade("profile", "learn", "-o", "-", "a")
    assert result.exit_code == 1
    assert "# INCOMPLETE, there may be more: a failed (WALL_NOT_STANDING)\n" in result.stdout


def test_a_folder_without_a_record(stockade: Stockade, tmp_path: Path) -> None:
    learned = stockade("profile", "learn", "--state", tmp_path, "a")
    verified = stockade("audit", "verify", tmp_path)
    assert learned.exit_code == verified.exit_code == 2
    assert "RECORD_MISSING" in learned.stderr
    assert learned.stderr == verified.stderr


def test_what_another_wall_denied_cannot_be_accepted(
    daemon: FakeDaemon, stockade: Stockade
) -> None:
    play(daemon, {"a": whole(denied("connect", wall="network", detail="203.0.113.9:443 tcp"))})
    result = stockade("profile", "learn", "--accept", "connect", "a")
    assert result.exit_code == 2
    assert "denied by the network wall" in result.stderr
    assert "a way out is a rule of egress" in result.stderr


def test_system_calls_are_completed() -> None:
    [accept] = [one for one in command.params if one.name == "accept"]
    context = click.Context(command)
    assert [one.value for one in accept.shell_complete(context, "memfd_")] == [
        "memfd_create", "memfd_secret",
    ]  # fmt: skip


def test_what_is_not_known_has_an_exit_code(daemon: FakeDaemon, stockade: Stockade) -> None:
    lost = ("lost", {"what": "exec", "count": 3, "reason": "RING_FULL"})
    play(daemon, {"a": whole(watched("getppid"), lost)})
    result = stockade("profile", "learn", "a")
    assert result.exit_code == 1
    assert "INCOMPLETE: a lost 3 of exec" in result.stderr
    assert "# INCOMPLETE" in result.stdout


def test_a_human_accepts_what_was_denied(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, {"a": whole(denied("memfd_create"))})
    text = stockade("profile", "learn", "-o", "-", "--accept", "memfd_create", "a").stdout
    assert '{name: memfd_create, why: "DENIED once, accepted by hand, in a"}' in text
    refused = stockade("profile", "learn", "--accept", "ptrace", "a")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_calls_under_different_profiles(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, {"a": whole(), "b": whole(digest="e" * 64)})
    result = stockade("profile", "learn", "a", "b")
    assert result.exit_code == 2
    assert "PROFILES_DIFFER" in result.stderr
    assert f"b under base sha256:{'e' * 12}" in result.stderr


def test_a_profile_that_is_not_the_one_that_ran(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, {"a": whole()}, profile=OBSERVING.replace(b"A test.", b"Another."))
    result = stockade("profile", "learn", "a")
    assert (result.exit_code, result.stdout) == (8, "")
    assert "DIGEST_MISMATCH" in result.stderr
