"""Observe, learn, enforce: a program works under what was learned from it, and under no less."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from supervisor.call.events import Started
from supervisor.call.outcome import Exited
from supervisor.profile import syscalls
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

OBSERVING = "profile: report\nextends: python\nwhy: One report.\nmode: observe\n"
REPORT = """
import ctypes, json, os, pathlib, socket, subprocess, sys, threading
folder = pathlib.Path("/work/out")
folder.mkdir()
(folder / "a.json").write_text(json.dumps({"n": sum(range(1000))}))
os.rename(folder / "a.json", folder / "b.json")
one, other = socket.socketpair()
thread = threading.Thread(target=one.sendall, args=(b"word",))
thread.start(); thread.join()
try:
    socket.create_connection(("203.0.113.9", 443))
except OSError as error:
    print(error.errno)
if ctypes.CDLL(None).memfd_create(b"x", 0) >= 0:
    print("memfd")
print(other.recv(4), subprocess.run(["uname", "-s"], capture_output=True).stdout, flush=True)
"""
SAID = b"1\nb'word' b'Linux\\n'\n"


def run(daemon: Daemon, profile: str):  # type: ignore[no-untyped-def]
    return daemon.client.run(["python3", "-c", REPORT], profile=profile)


@pytest.mark.key("mode")
def test_a_program_works_under_what_was_learned_from_it_and_under_no_less(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    config = with_profiles(folder, report=OBSERVING)
    with running_daemon(config=config, folder=tmp_path) as daemon:
        observed = [run(daemon, "report") for _ in range(2)]
        assert [call.stdout for call in observed] == [SAID, SAID]
        ids = [call.call_id for call in observed]
        shown = daemon.command("profile", "learn", *ids)
        assert shown.returncode == 0, shown.stderr
        assert b"-mode: observe\n+mode: enforce\n" in shown.stdout
        written = tmp_path / "report.yaml"
        assert daemon.command("profile", "learn", "-o", str(written), *ids).returncode == 0
        assert daemon.command("profile", "lint", str(written)).returncode == 0
        text = written.read_text()
        assert "memfd_create x" in text.partition("profile: report")[0]
        assert "/usr/bin/uname x2" in text
        assert "connect 203.0.113.9:443 tcp x" in text
        learned = json.loads(daemon.command("profile", "learn", "--json", *ids).stdout)
        assert learned["text"] == text
        narrower = folder / "report.yaml"
        narrower.write_text(text)
        # One call less, of those that stand there by name and that the program cannot do without.
        lacking = re.sub(r'\{name: mkdir, why: "[^"]*"\},?\s*', "", text)
        assert lacking != text
        (folder / "lacking.yaml").write_text(lacking.replace("profile: report", "profile: lacking"))
        daemon.stop()
        offline = daemon.command("profile", "learn", "--state", str(daemon.state), *ids)
        assert offline.stdout == shown.stdout
        daemon.start()
        again = run(daemon, "report")
        assert (again.stdout, again.outcome) == (SAID, Exited(code=0))
        assert {(one.wall.value, one.name) for one in again.denials} == {
            ("syscall", "memfd_create"), ("network", "connect"),
        }  # fmt: skip
        less = run(daemon, "lacking")
        assert less.outcome == Exited(code=1)
        assert ("syscall", "mkdir") in {(one.wall.value, one.name) for one in less.denials}
        changed = daemon.command("profile", "learn", *ids)
        assert changed.stdout == shown.stdout, "the record has the profile as it was"
        allowed = daemon.command("profile", "show", "--canonical", "report").stdout
        now = set(json.loads(allowed)["syscalls"]["allow"])
        base = syscalls.members("@local")
        assert len(now) < len(base) / 2, "it was hardly tightened"


HONEST = {
    "build": "printf '#include <stdio.h>\\nint main(){puts(\"hi\");}' >a.c && gcc a.c -o a && ./a",
    "shell": "find /usr/share/doc -name copyright | head -50 | xargs wc -l | sort -n | tail -1 | "
    "sed s/total/done/; tar czf x.tgz -C /usr/share/zoneinfo Europe; timeout 5 sleep 0.1; "
    "ps >/dev/null",
    "python": "exec python3 -c 'import asyncio, multiprocessing, sqlite3\n"
    'sqlite3.connect("/work/a").execute("create table t(a)")\n'
    'async def run(): await (await asyncio.create_subprocess_exec("true")).wait()\n'
    "asyncio.run(run())\n"
    "with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))'",
}


def test_honest_work_is_denied_nothing_under_what_was_learned_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    observing = {
        name: f"profile: of-{name}\nextends: {name}\nwhy: A test.\nmode: observe\n"
        for name in HONEST
    }
    config = with_profiles(folder, **{f"of-{name}": text for name, text in observing.items()})
    with running_daemon(config=config, folder=tmp_path) as daemon:
        said = {}
        for name, script in HONEST.items():
            call = daemon.client.run(["sh", "-c", script], profile=f"of-{name}")
            assert (call.outcome, call.stderr) == (Exited(code=0), b"")
            assert call.stdout
            said[name] = call.stdout
            learned = daemon.command("profile", "learn", "-o", "-", call.call_id)
            assert learned.returncode == 0
            (tmp_path / f"of-{name}.yaml").write_bytes(learned.stdout)
        daemon.stop()
        for name in HONEST:
            (tmp_path / f"of-{name}.yaml").rename(folder / f"of-{name}.yaml")
        daemon.start()
        for name, script in HONEST.items():
            again = daemon.client.run(["sh", "-c", script], profile=f"of-{name}")
            assert (again.outcome, again.stderr) == (Exited(code=0), b"")
            assert again.stdout == said[name]
            assert list(again.denials) == []


LEAST = """profile: least
extends: base
drop: {syscalls: {allow: ["@local"]}}
why: Where every learned profile begins.
syscalls: {allow: ["@start"]}
"""


def test_the_least_set_of_system_calls_starts_a_program(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, least=LEAST)) as daemon:
        for _ in range(5):
            call = daemon.client.run(["true"], profile="least")
            assert call.outcome == Exited(code=0)
            assert list(call.denials) == []


WATCHING = 'syscalls: {watch: ["@resources", "@sync"]}'


def test_a_watched_profile_is_tightened_where_it_was_watched(tmp_path: Path) -> None:
    config = with_profiles(tmp_path, watching=WATCHING)
    with running_daemon(config=config) as daemon:
        call = daemon.client.run(["sh", "-c", "nice true; sync /work"], profile="watching")
        plain = daemon.client.run(["true"], profile="base")
        learned = json.loads(daemon.command("profile", "learn", "--json", call.call_id).stdout)
        cover = learned["cover"]
        assert not {"@resources", "@sync", "@local", "@default"} & set(cover["sets"])
        assert {"@file-system", "@ipc"} <= set(cover["sets"])
        assert "fsync" in cover["singles"] or "syncfs" in cover["singles"]
        nothing = daemon.command("profile", "learn", plain.call_id)
        assert nothing.returncode == 2
        assert b"NOTHING_WATCHED" in nothing.stderr
        both = daemon.command("profile", "learn", plain.call_id, call.call_id)
        assert both.returncode == 2
        assert b"PROFILES_DIFFER" in both.stderr
        missing = daemon.command("profile", "learn", "no-such-call")
        assert missing.returncode == 3


def test_a_call_that_still_runs_is_learned_from_with_a_warning(tmp_path: Path) -> None:
    config = with_profiles(tmp_path, watching=WATCHING)
    with (
        running_daemon(config=config) as daemon,
        daemon.client.execute(["cat"], profile="watching", stdin_open=True) as execution,
    ):
        call_id = execution.call_id
        learned = daemon.command("profile", "learn", "-o", "-", call_id)
        assert learned.returncode == 1
        assert b"INCOMPLETE" in learned.stderr
        assert f"# INCOMPLETE, there may be more: {call_id} has not ended" in (
            learned.stdout.decode()
        )
        execution.close_stdin()


def test_a_call_that_was_cut_short_is_learned_from_with_a_warning(tmp_path: Path) -> None:
    short = f"{WATCHING}\nlimits: {{output: 64KiB}}"
    config = with_profiles(tmp_path / "profiles", watching=WATCHING, short=short)
    with running_daemon(config=config, folder=tmp_path) as daemon:
        client = daemon.client
        loud = client.run(["yes"], profile="short")
        missing = client.run(["/nowhere"], profile="watching")
        with client.execute(["cat"], profile="watching", stdin_open=True) as killed:
            for event in killed:
                if isinstance(event.event, Started):
                    killed.cancel()
        itself = client.run(["sh", "-c", "kill -9 $$"], profile="watching")
        for call, why in (
            (loud, "reached its output limit"),
            (missing, "ran no program (EXEC_FAILED)"),
            (killed, "was stopped (SIGNAL)"),
            (itself, None),
        ):
            learned = daemon.command("profile", "learn", "-o", "-", call.call_id)
            said = [one for one in learned.stdout.decode().splitlines() if "INCOMPLETE" in one]
            wanted = [f"# INCOMPLETE, there may be more: {call.call_id} {why}"] if why else []
            assert (said, learned.returncode) == (wanted, 1 if why else 0)
        state = str(daemon.state)
        for nobody in ("", "no-such-call"):
            result = daemon.command("profile", "learn", "--state", state, nobody)
            assert (result.returncode, result.stdout) == (3, b"")
            assert b"RECORD_NOT_FOUND" in result.stderr


def test_an_auditor_learns_without_a_grant_of_the_profile(tmp_path: Path) -> None:
    config = with_profiles(tmp_path / "profiles", watching=WATCHING)
    with running_daemon(config=config, folder=tmp_path) as daemon:
        call_id = daemon.client.run(["true"], profile="watching").call_id
        granted = daemon.command("profile", "learn", call_id)
        daemon.stop()
        auditor = {"name": "auditor", "uid": os.getuid(), "profiles": [], "audit": "all"}
        daemon.config.write_text(json.dumps({**config, "callers": [auditor]}))
        daemon.start()
        refused = daemon.command("profile", "show", "watching")
        assert b"PROFILE_NOT_FOUND" in refused.stderr
        without = daemon.command("profile", "learn", call_id)
        assert (without.returncode, without.stdout) == (0, granted.stdout)
