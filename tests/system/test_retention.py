"""Retention by a real daemon: what the configuration says goes, and what holds it back."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.verify import verify
from supervisor.client import Supervisor
from supervisor.errors import NotFound
from tests.support.daemon import Daemon

WAIT_S = 60.0
POLL_S = 0.1
LONG_AGO_S = 7200
DAYS = 3
AS_OF_OLD = f"""
import time
real = time.time_ns
time.time_ns = lambda: real() - {DAYS} * 86_400 * 10**9
from supervisor.cli.main import main
main()
"""
"""`stockade` with a clock that is some days behind: what it records is that old."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give one that each test configures and starts by itself."""
    with Daemon(tmp_path) as one:
        yield one
        if one.alive:
            assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


def retain(**keys: Any) -> dict[str, Any]:
    return {"record": {"retain": {"exported_by": [], **keys}}}


def run_one(daemon: Daemon, size: int = 5000, **more: Any) -> str:
    """Run a call that writes so much of what nobody else does, and leaves a file behind."""
    script = f"head -c {size} /dev/urandom | tee left; cat"
    with daemon.client.execute(
        ["sh", "-c", script], profile="base", stdin=b"typed\n", outputs=["left"], **more
    ) as execution:
        for _ in execution:
            pass
        return execution.call_id


def make_old(daemon: Daemon) -> None:
    """Let every content look as if nobody had asked for it for long."""
    when = time.time() - LONG_AGO_S
    for path in (daemon.state / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (when, when))


def restart(daemon: Daemon, config: dict[str, Any]) -> None:
    assert daemon.stop() == 0, daemon.tail()
    make_old(daemon)
    daemon.configure(config)
    daemon.start()


def wait_for(daemon: Daemon, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, daemon.tail()
        time.sleep(POLL_S)


def removed(client: Supervisor) -> list[dict[str, Any]]:
    return [entry.body()["body"] for entry in client.events(kind="removed")]


def contents(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.state / "blobs" / "sha256").rglob("*") if path.is_file()}


def plan(daemon: Daemon) -> dict[str, Any]:
    done = daemon.command("audit", "retain", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_too_much_goes_and_every_reader_says_so(daemon: Daemon) -> None:
    daemon.start()
    first, second = run_one(daemon), run_one(daemon)
    assert daemon.command("audit", "retain", "--dry-run").returncode == 3  # there is none
    for call_id in (first, second):  # the control: both are there
        assert len(daemon.command("audit", "cat", call_id).stdout) == 5000 + 6
    before = contents(daemon)
    restart(daemon, retain(size="12KiB"))
    wait_for(daemon, lambda: removed(daemon.client))
    (body,) = removed(daemon.client)
    assert (body["why"], body["calls"]) == ("size", [first])
    wait_for(daemon, lambda: not contents(daemon) & set(body["files"]))
    assert before - contents(daemon) == set(body["files"])
    assert daemon.client.recorded_call(first).removed.why == "size"  # type: ignore[union-attr]
    assert daemon.client.recorded_call(second).removed is None
    said = b"by retention (size)"
    for verb in (["cat"], ["cat", "--output", "left"], ["replay"], ["rerun", "-p", "base"]):
        done = daemon.command("audit", *verb, first)
        assert (done.returncode, said in done.stderr) == (3, True), (verb, done.stderr)
    assert said in daemon.command("audit", "show", first).stdout
    assert b"contents removed" in daemon.command("audit", "ls").stdout
    assert b"by size" in daemon.command("audit", "log", "--kind", "removed").stdout
    with pytest.raises(NotFound) as caught:
        list(daemon.client.attach(first))
    assert caught.value.reason == "CONTENT_REMOVED"
    assert len(daemon.command("audit", "cat", second).stdout) == 5000 + 6
    found = plan(daemon)
    assert (found["going"], found["problem"]) == ([], "")
    verified = daemon.command("audit", "verify", str(daemon.state))
    assert verified.returncode == 0, verified.stdout
    assert b"the contents of 1 call were removed by retention" in verified.stderr
    assert daemon.stop() == 0
    gone = daemon.state / "blobs" / "sha256"
    name = next(iter(contents(daemon) & before - set(body["files"])))
    (gone / name[:2] / name).unlink()  # by hand: nothing says so
    assert not verify(daemon.state).ok


def test_what_is_too_old_goes_once_so_much_time_has_passed(daemon: Daemon) -> None:
    program, daemon._program = daemon._program, (sys.executable, "-c", AS_OF_OLD)
    daemon.start()
    old = run_one(daemon)
    daemon._program = program
    restart(daemon, retain(age=f"{DAYS - 1}d"))
    wait_for(daemon, lambda: "CLOCK_AHEAD" in daemon.tail())  # for all it knows, the clock jumped
    assert plan(daemon)["going"] == []
    restart(daemon, {})
    new = run_one(daemon)
    assert daemon.stop() == 0
    for path in daemon.state.glob("holdings.db*"):  # which remembers what time was believed
        path.unlink()
    daemon.start()
    restart(daemon, retain(age=f"{DAYS - 1}d"))
    wait_for(daemon, lambda: removed(daemon.client))
    (body,) = removed(daemon.client)
    assert (body["why"], body["calls"]) == ("age", [old])
    assert daemon.client.recorded_call(new).removed is None


def doctors_word(daemon: Daemon) -> dict[str, Any]:
    """Give what `stockade doctor` says of retention."""
    told = daemon.command(
        "doctor", "--config", str(daemon.config), "--json", "--runtime-dir", str(daemon.runtime)
    )
    (row,) = [row for row in json.loads(told.stdout) if row["wall"] == "retention"]
    return dict(row)


def test_what_is_not_exported_stays(daemon: Daemon) -> None:
    daemon.start()
    call_id = run_one(daemon)
    config = {**retain(size="1KiB", exported_by=["siem"]), "state": str(daemon.state)}
    restart(daemon, config)
    wait_for(daemon, lambda: "the cursor siem: it is missing" in daemon.tail())
    assert "CURSOR_UNUSABLE" in plan(daemon)["problem"]
    assert doctors_word(daemon)["verdict"] == "fails"
    assert "the cursor siem: it is missing" in doctors_word(daemon)["detail"]
    mark = ("audit", "export-mark", "--state", str(daemon.state), "siem")
    assert daemon.command(*mark, "1").returncode == 0
    restart(daemon, config)
    wait_for(daemon, lambda: "is not exported" in plan(daemon)["rest"])
    assert doctors_word(daemon)["verdict"] == "holds"
    assert daemon.command(*mark, "1000000").returncode == 3
    entries = daemon.client.record(call_id).entries
    assert daemon.command(*mark, str(entries[-1].index + 1)).returncode == 0
    assert daemon.command(*mark, "1").returncode == 2  # never back
    assert removed(daemon.client) == []
    restart(daemon, retain(size="1KiB", exported_by=["siem"]))
    wait_for(daemon, lambda: removed(daemon.client))
    assert removed(daemon.client)[0]["calls"] == [call_id]


def test_what_is_held_stays(daemon: Daemon) -> None:
    daemon.start()
    held, other = run_one(daemon), run_one(daemon)
    done = daemon.command("audit", "hold", "--why", "case 4711", held)
    assert done.returncode == 0, done.stderr
    assert daemon.command("audit", "hold", held).returncode == 2  # no reason
    restart(daemon, retain(size="1B"))
    wait_for(daemon, lambda: removed(daemon.client))
    assert removed(daemon.client)[0]["calls"] == [other]
    assert plan(daemon)["held"] == 1
    assert daemon.command("audit", "hold", "--why", "x", other).returncode == 3  # too late
    done = daemon.command("audit", "release", "--why", "it is closed", held)
    assert done.returncode == 0, done.stderr
    (said,) = daemon.client.events(kind="released")
    assert said.body()["body"]["why"] == "it is closed"
    restart(daemon, retain(size="1B"))
    wait_for(daemon, lambda: len(removed(daemon.client)) == 2)
    assert removed(daemon.client)[0]["calls"] == [held]


def test_to_hold_is_a_right_of_its_own(daemon: Daemon) -> None:
    caller = {"name": "reader", "uid": os.getuid(), "profiles": ["base"], "audit": "all"}
    daemon.configure({"callers": [caller]})
    daemon.start()
    call_id = run_one(daemon)
    for verb in ("hold", "release"):
        done = daemon.command("audit", verb, "--why", "x", call_id)
        assert (done.returncode, b"HOLDS_NOT_GRANTED" in done.stderr) == (4, True)
    assert list(daemon.client.events(kind="held")) == []
    restart(daemon, {"callers": [{**caller, "holds": True, "audit": "own"}]})
    assert daemon.command("audit", "hold", "--why", "x", call_id).returncode == 0
    assert daemon.command("audit", "retain", "--dry-run").returncode == 4  # others' calls
