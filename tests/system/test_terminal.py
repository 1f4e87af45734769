"""Calls in a terminal: what the program has of it, what is typed, its size, and how it ends."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.events import Resized
from supervisor.call.outcome import Exited, LimitExceeded, Stopped
from supervisor.client import Execution, FinishedCall, Output, Stream, Supervisor, Terminal
from supervisor.errors import CallStateError, InvalidRequest, NotPermitted
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import end_of, is_started, until, wait_for
from tests.support.profiles import with_profiles

SIZE = Terminal(rows=30, columns=100)
CTRL_C, CTRL_D, CTRL_S, CTRL_Q = b"\x03", b"\x04", b"\x13", b"\x11"
OUTPUT_BYTES = 1 << 20
LOUD_BYTES = 96 << 20
GROWTH_MAX = 64 << 20
PROFILES = {
    "tty": f"terminal: allow\nlimits: {{output: {OUTPUT_BYTES}B}}\n",
    "loud": f"terminal: allow\nlimits: {{output: {LOUD_BYTES}B}}\nrecord: {{stdout: 1MiB}}\n",
}
PASSWORD = b"correct horse\n"
ASKS = """
printf 'name: '; read name
stty -echo; printf 'password: '; read password; stty echo
printf '\\n%s has %s letters\\n' "$name" "${#password}"
"""
LETS_GO = "exec 3<&0 </dev/null >/dev/null 2>&1 3<&-; sleep 0.2; echo back >/dev/tty"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("terminal")
    config = with_profiles(folder / "profiles", **PROFILES)
    with running_daemon(config=config, folder=folder) as running:
        yield running


def run(daemon: Daemon, *argv: str, profile: str = "tty", **more: Any) -> FinishedCall:
    return daemon.client.run(argv, profile=profile, terminal=SIZE, **more)


def start(daemon: Daemon, *argv: str, profile: str = "tty", **more: Any) -> Execution:
    return daemon.client.execute(argv, profile=profile, terminal=SIZE, stdin_open=True, **more)


def read_until(execution: Execution, pattern: bytes) -> bytes:
    """Read on until what comes from here on matches."""
    seen = b""
    for event in execution:
        if isinstance(event.event, Output):
            seen += event.event.data
            if re.search(pattern, seen):
                return seen
    raise AssertionError(seen)


def bodies(daemon: Daemon, call_id: str, kind: str) -> list[Any]:
    entries = daemon.client.record(call_id).entries
    return [entry.body()["body"] for entry in entries if entry.kind == kind]


@pytest.mark.key("terminal")
def test_only_a_profile_that_allows_it_gives_one(daemon: Daemon) -> None:
    assert run(daemon, "tty").stdout == b"/dev/pts/0\r\n"
    for profile in ("base", "shell"):
        with pytest.raises(NotPermitted) as raised:
            run(daemon, "tty", profile=profile)
        assert raised.value.reason == "TERMINAL_DENIED"
        assert "terminal: allow" in raised.value.hint
    refused = [json.loads(entry.json)["body"] for entry in daemon.client.events(kind="refused")]
    assert {body["reason"] for body in refused} == {"TERMINAL_DENIED"}
    without = daemon.client.run(["tty"], profile="tty")
    assert (without.stdout, without.exit_code) == (b"not a tty\n", 1)


def test_what_the_program_has(daemon: Daemon) -> None:
    script = "stty size; echo $TERM; echo err >&2; ps -o pid=,sess=,tpgid=,tty= -p $$; ls /dev/pts"
    call = run(daemon, "sh", "-c", script)
    assert call.outcome == Exited(code=0)
    size, term, err, ids, *pts = call.stdout.decode().replace("\r\n", "\n").splitlines()
    assert (size, term, err) == ("30 100", "xterm", "err")
    pid, session, foreground, tty = ids.split()
    assert pid == session == foreground
    assert tty == "pts/0"
    assert " ".join(pts).split() == ["0", "ptmx"]  # of the host's terminals none
    assert call.stderr == b""
    request = bodies(daemon, call.call_id, "intent")[0]["request"]
    assert request["terminal"] == {"rows": 30, "columns": 100, "term": "xterm"}


def test_the_kind_of_terminal_is_the_requests_or_the_profiles(daemon: Daemon) -> None:
    terminal = Terminal(rows=1, columns=1, term="vt100")
    call = daemon.client.run(["sh", "-c", "echo $TERM"], profile="tty", terminal=terminal)
    assert call.stdout == b"vt100\r\n"
    for wrong in (Terminal(rows=0, columns=80), Terminal(rows=1, columns=1, term="../x")):
        with pytest.raises(InvalidRequest) as raised:
            daemon.client.run(["true"], profile="tty", terminal=wrong)
        assert raised.value.reason == "TERMINAL_INVALID"


def test_another_size_is_told_to_program_record_and_followers(daemon: Daemon) -> None:
    script = "trap 'stty size; exit 3' WINCH; echo ready; while :; do read line; done"
    with start(daemon, "sh", "-c", script) as execution:
        read_until(execution, rb"ready")
        execution.resize_terminal(rows=30, columns=100)  # as it is
        execution.resize_terminal(rows=50, columns=132)
        event = until(execution, lambda event: isinstance(event.event, Resized))
        assert event.event == Resized(rows=50, columns=132)
        assert read_until(execution, rb"\d \d").strip() == b"50 132"
        assert end_of(execution).outcome == Exited(code=3)
        assert bodies(daemon, execution.call_id, "resized") == [{"rows": 50, "columns": 132}]
        with pytest.raises(CallStateError) as raised:
            execution.resize_terminal(rows=1, columns=1)
        assert raised.value.reason == "CALL_CLOSED"
    again = [event.event for event in daemon.client.attach(execution.call_id)]
    assert Resized(rows=50, columns=132) in again


def test_what_is_typed_is_on_record_also_where_it_is_not_shown(daemon: Daemon) -> None:
    with start(daemon, "sh", "-c", ASKS) as execution:
        wrote = read_until(execution, b"name: ")
        execution.write_stdin(b"alice\n")
        wrote += read_until(execution, b"password: ")
        execution.write_stdin(PASSWORD)
        wrote += read_until(execution, rb"letters")
        assert end_of(execution).outcome == Exited(code=0)
    typed = b"".join(daemon.client.read_output(execution.call_id, Stream.STDIN))
    assert typed == b"alice\n" + PASSWORD
    assert b"alice\r\n" in wrote  # echoed
    assert b"horse" not in wrote
    assert b"alice has 13 letters" in wrote


def test_control_characters_mean_what_they_mean(daemon: Daemon) -> None:
    with start(daemon, "sh", "-c", "cat; echo; trap 'echo int; exit 5' INT; cat") as execution:
        execution.write_stdin(b"abc\n" + CTRL_D)
        assert read_until(execution, rb"abc\r\nabc\r\n\r\n")
        execution.write_stdin(CTRL_S + b"x\n")
        execution.write_stdin(CTRL_Q)
        assert read_until(execution, rb"x\r\nx\r\n")
        execution.write_stdin(CTRL_C)
        assert read_until(execution, rb"int")
        assert end_of(execution).outcome == Exited(code=5)
        assert not bodies(daemon, execution.call_id, "signal")


def test_nobody_types_any_more_and_the_program_is_not_told(daemon: Daemon) -> None:
    """A terminal has no end of input; a program that does not read ends, one that does waits."""
    assert run(daemon, "echo", "x", stdin=b"abc\n").exit_code == 0
    assert run(daemon, "cat", stdin=b"abc\n" + CTRL_D).stdout == b"abc\r\nabc\r\n"
    assert run(daemon, "cat", stdin=b"abc\n", timeout=1.0).exit_code == 124


def test_a_program_that_lets_go_of_its_terminal_may_come_back(daemon: Daemon) -> None:
    call = run(daemon, "sh", "-c", LETS_GO)
    assert (call.outcome, call.stdout) == (Exited(code=0), b"back\r\n")


@pytest.mark.parametrize("size_bytes", [1, 4095, 4096, 4097, 70_000, 900_000])
def test_everything_is_read_to_the_end(daemon: Daemon, size_bytes: int) -> None:
    """Also what was written last, by a program that has ended since."""
    call = run(daemon, "sh", "-c", f"head -c {size_bytes} /dev/zero | tr '\\0' x; exit 7")
    assert call.outcome == Exited(code=7)
    assert call.stdout == b"x" * size_bytes


def test_its_output_has_a_limit(daemon: Daemon) -> None:
    call = run(daemon, "yes")
    assert isinstance(call.outcome, LimitExceeded)
    assert call.outcome.limit == "output"


def test_a_client_that_does_not_read_costs_the_daemon_no_memory(daemon: Daemon) -> None:
    """The program waits for it; one that takes nothing for long is let go, and attaches again."""
    with start(daemon, "yes", profile="loud") as execution:
        most = before = resident(daemon.pid)
        while daemon.client.get(execution.call_id).finished is None:
            most = max(most, resident(daemon.pid))
            time.sleep(0.1)
        assert most - before < GROWTH_MAX
        ended = end_of(execution)
    assert isinstance(ended.outcome, LimitExceeded)
    [stdout] = [stream for stream in ended.streams if stream.stream is Stream.STDOUT]
    assert stdout.digest.size_bytes > LOUD_BYTES


def resident(pid: int) -> int:
    """Read VmRSS in bytes (proc_pid_status(5))."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0]) << 10


def test_it_outlives_its_client_unless_that_said_otherwise(daemon: Daemon) -> None:
    script = ["sh", "-c", "echo ready; read line; exit $line"]
    other = Supervisor(daemon.address)
    execution = other.execute(script, profile="tty", terminal=SIZE, stdin_open=True)
    read_until(execution, b"ready")
    execution.close()
    other.close()
    assert daemon.client.get(execution.call_id).finished is None
    daemon.client.write_stdin(execution.call_id, b"9\n", offset=0)
    assert end_of(daemon.client.attach(execution.call_id)).outcome == Exited(code=9)

    other = Supervisor(daemon.address)
    execution = other.execute(
        script, profile="tty", terminal=SIZE, stdin_open=True, kill_on_disconnect=True
    )
    read_until(execution, b"ready")
    execution.close()
    other.close()
    wait_for(lambda: daemon.client.get(execution.call_id).finished is not None)
    ended = daemon.client.get(execution.call_id).finished
    assert ended is not None
    assert isinstance(ended.outcome, Stopped)
    assert ended.outcome.reason == "DISCONNECTED"


def test_the_daemon_has_none_and_keeps_none(daemon: Daemon) -> None:
    with start(daemon, "sh", "-c", "read line") as execution:
        until(execution, is_started)
        # tty_nr, the controlling terminal, is the fifth field after the name (proc_pid_stat(5)).
        fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        assert fields[4] == "0"
        assert len(terminals_of(daemon)) == 3
        execution.write_stdin(b"\n")
        end_of(execution)
    assert not terminals_of(daemon)


def terminals_of(daemon: Daemon) -> list[str]:
    targets = [path.readlink() for path in Path(f"/proc/{daemon.pid}/fd").iterdir()]
    return [str(target) for target in targets if "/ptmx" in str(target) or "/pts/" in str(target)]


def test_show_tells_of_it(daemon: Daemon) -> None:
    with start(daemon, "sh", "-c", "echo ready; read line") as execution:
        read_until(execution, b"ready")
        execution.resize_terminal(rows=24, columns=80)
        execution.write_stdin(b"\n")
        end_of(execution)
    shown = daemon.command("audit", "show", execution.call_id).stdout.decode()
    assert "100x30 xterm" in shown
    assert "the terminal has 80x24 from here on" in shown
    assert daemon.command("audit", "verify", str(daemon.state)).returncode == 0
