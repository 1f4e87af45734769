"""A recording of a terminal session replays as it looked: `run -t` by somebody who sits at a
terminal, and what the record makes of it again, compared cell by cell at several moments."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.screen import SafeScreen
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.following import wait_for
from tests.support.profiles import with_profiles
from tests.support.terminals import Picture, Seat, seated

HERE = Path(__file__).parent
FULL_SCREEN = (HERE / "programs" / "full_screen.py").read_text()
ROWS, COLUMNS = 24, 80
TERM = "linux"
"""What the emulator of the tests is most like: it takes some of xterm's for other sequences."""

SHELL = r"""
printf '\033[?1049h\033[2J\033[5;10H\033[1;31mred\033[0m\033[7;1Hstep 0'; read _
printf '\033[2;20r\033[20;1H'; i=0; while [ $i -lt 30 ]; do echo "line $i"; i=$((i+1)); done
printf '\033[r\033[1;1Hstep 1'; read _
printf '\033[?1049l\033[H\033[2K'; stty size; printf 'step 2'; read _
printf '\033[3;3H\033[44mblue\033[K\033[0m\033[8;1Hstep 3'; read _
"""
PROGRAMS = {"curses": ["python3", "-c", FULL_SCREEN], "shell": ["sh", "-c", SHELL]}
EDITOR, PAGER = "vim.tiny", "less"
"""Of the packages vim-tiny and less, which .ci/setup installs."""

COOKED = termios.ICANON | termios.ECHO | termios.ISIG
OFLAG, LFLAG = 1, 3
CTRL_C, ESC = b"\x03", b"\x1b"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("sessions")
    config = with_profiles(folder / "profiles", tty="terminal: allow")
    with running_daemon(config=config, folder=folder) as running:
        yield running


@dataclass
class Look:
    """What was seen after so many bytes of output."""

    written: int
    seen: tuple[object, ...]


def environment(daemon: Daemon) -> dict[str, str]:
    return {**os.environ, "STOCKADE_ADDR": daemon.address, "TERM": TERM}


def at(daemon: Daemon, *command: str) -> Any:
    """Sit at a terminal where `stockade COMMAND` runs."""
    return seated([STOCKADE, *command], rows=ROWS, columns=COLUMNS, env=environment(daemon))


def session(daemon: Daemon, *argv: str) -> Any:
    return at(daemon, "run", "-q", "-t", "-p", "tty", "--", *argv)


def look(seat: Seat) -> Look:
    """Look at the terminal when nothing comes any more."""
    while seat.read(0.3):
        pass
    return Look(len(seat.wrote), seat.picture.seen())


def last_call(daemon: Daemon) -> str:
    return next(iter(daemon.client.list_calls(limit=1))).call_id


def replayed(daemon: Daemon, call_id: str) -> list[tuple[float, bytes | tuple[int, int]]]:
    """Give the pieces of output and the sizes of `audit replay`, each with its time."""
    told = []
    for line in daemon.command("audit", "replay", "--json", call_id).stdout.splitlines():
        moment = json.loads(line)
        if "rows" in moment:
            told.append((moment["at_s"], (moment["rows"], moment["columns"])))
        elif moment.get("stream") == "stdout":
            told.append((moment["at_s"], base64.b64decode(moment["data"])))
    return told


def exported(daemon: Daemon, call_id: str) -> list[tuple[float, bytes | tuple[int, int]]]:
    """Give the same of the asciicast, as a player would: its first size is the header's."""
    done = daemon.command("audit", "replay", "--export", "asciicast", call_id)
    header, *events = map(json.loads, done.stdout.splitlines())
    assert header["term"] == {"rows": ROWS, "cols": COLUMNS, "type": TERM}
    told: list[tuple[float, bytes | tuple[int, int]]] = []
    for at_s, (_, code, data) in zip(
        itertools.accumulate(event[0] for event in events), events, strict=True
    ):
        if code == "r":
            columns, _, rows = data.partition("x")
            told.append((at_s, (int(rows), int(columns))))
        elif code == "o":
            told.append((at_s, data.encode()))
    return told


def pictures(
    told: list[tuple[float, bytes | tuple[int, int]]], looks: list[Look], *, safe: bool = False
) -> list[tuple[object, ...]]:
    """Play what was told, and look after as many bytes as were written then."""
    picture, screen, found, written = Picture(rows=ROWS, columns=COLUMNS), SafeScreen(), [], 0
    waiting = list(looks)

    def look_around() -> None:
        while waiting and waiting[0].written == written:
            found.append(picture.seen())
            waiting.pop(0)

    for _, what in told:
        if isinstance(what, tuple):
            look_around()  # before that
            picture.resize(rows=what[0], columns=what[1])
            continue
        for byte in (bytes([one]) for one in what):
            look_around()
            picture.feed(screen.feed(byte).encode() if safe else byte)
            written += 1
    look_around()
    return found


def expect_same(daemon: Daemon, looks: list[Look]) -> None:
    """See that the record shows what was seen, by each way that there is."""
    call_id = last_call(daemon)
    seen = [one.seen for one in looks]
    assert len(set(map(repr, seen))) == len(seen), "each look is to show something else"
    for told in (replayed(daemon, call_id), exported(daemon, call_id)):
        times = [at_s for at_s, _ in told]
        assert times == sorted(times)
        assert pictures(told, looks) == seen
        assert pictures(told, looks, safe=True) == seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_full_screen_program_with_another_size_in_the_middle(daemon: Daemon, name: str) -> None:
    looks = []
    with session(daemon, *PROGRAMS[name]) as seat:
        seat.until_shown("step 0")
        looks.append(look(seat))
        seat.type(b"\r")
        seat.until_shown("step 1")
        looks.append(look(seat))
        seat.size(rows=40, columns=132)
        if name == "curses":
            seat.until_shown("132x40")
        else:
            wait_for(lambda: b"resized" in kinds(daemon))
            seat.type(b"\r")
            seat.until_shown("40 132")
        looks.append(look(seat))
        seat.size(rows=12, columns=50)
        if name == "curses":
            seat.until_shown("50x12")
        else:
            wait_for(lambda: kinds(daemon).count(b"resized") == 2)
            seat.type(b"\r")
            seat.until_shown("step 3")
        looks.append(look(seat))
        seat.type(b"q" if name == "curses" else b"\r")
        assert seat.wait() == 0
        looks.append(look(seat))
    expect_same(daemon, looks)


def kinds(daemon: Daemon) -> list[bytes]:
    return [e.kind.encode() for e in daemon.client.record(last_call(daemon)).entries]


def test_an_editor(daemon: Daemon) -> None:
    looks = []
    with session(daemon, EDITOR, "text") as seat:
        seat.until_shown("[New]")
        looks.append(look(seat))
        seat.type("ihello wörld".encode() + ESC)
        seat.until_shown("hello w")
        looks.append(look(seat))
        seat.size(rows=30, columns=100)
        looks.append(look(seat))
        seat.type(b"yy9pGiend" + ESC)
        seat.until_shown("endhello")
        looks.append(look(seat))
        seat.type(b":q!\r")
        assert seat.wait() == 0
    expect_same(daemon, looks)


def test_a_pager(daemon: Daemon) -> None:
    """Its standard input is a pipe: what is typed it reads from /dev/tty."""
    looks = []
    with session(daemon, "sh", "-c", f"seq 500 | {PAGER}") as seat:
        seat.until_shown("23")
        looks.append(look(seat))
        seat.type(b" ")
        seat.until_shown("46")
        looks.append(look(seat))
        seat.size(rows=40, columns=60)
        seat.until_shown("60")
        looks.append(look(seat))
        seat.type(b"G")
        seat.until_shown("500")
        looks.append(look(seat))
        seat.type(b"q")
        assert seat.wait() == 0
    expect_same(daemon, looks)


def test_the_shown_replay_draws_the_same(daemon: Daemon) -> None:
    """`audit replay` itself, at a terminal that is as large, without `--raw` and with it."""
    with session(daemon, *PROGRAMS["shell"]) as seat:
        for step in range(4):
            seat.until_shown(f"step {step}")
            seat.type(b"\r")
        assert seat.wait() == 0
        seen = look(seat).seen
    call_id = last_call(daemon)
    for options, end in (((), b"\x1b7\x1b[r"), (("--raw",), b"stockade: call")):
        with at(daemon, "audit", "replay", "--no-timing", *options, call_id) as seat:
            assert seat.wait() == 0
            # What is told before and after is not the session's.
            played = seat.wrote[seat.wrote.index(b"\x1b[?1049h") : seat.wrote.rindex(end)]
        picture = Picture(rows=ROWS, columns=COLUMNS)
        picture.feed(played)
        assert picture.seen() == seen, options
        assert b"a terminal of 80x24" in seat.wrote
        assert seat.attributes_after == seat.attributes_before


def test_what_a_terminal_would_do_more_is_left_out(daemon: Daemon) -> None:
    argv = ["printf", r"\033]52;c;ZXZpbA==\007\033[6n\033[?1003h\033[31mred"]
    with session(daemon, *argv) as seat:
        assert seat.wait() == 0
        assert b"\x1b]52" in seat.wrote  # live, it is the program's terminal
    call_id = last_call(daemon)
    done = daemon.command("audit", "replay", "--no-timing", call_id)
    assert done.stdout.startswith(b"\x1b[31mred")
    assert b"]52" not in done.stdout
    assert b"[6n" not in done.stdout
    assert b"left out 3 sequences" in done.stderr
    assert b"\x1b]52" in daemon.command("audit", "replay", "--raw", "--no-timing", call_id).stdout


def is_raw(seat: Seat) -> bool:
    attributes: Any = seat.attributes()
    return not attributes[LFLAG] & COOKED and not attributes[OFLAG] & termios.OPOST


def test_the_terminal_is_raw_and_then_as_it_was(daemon: Daemon) -> None:
    with session(daemon, "sh", "-c", "echo ready; read x; exit 7") as seat:
        before = seat.attributes_before
        seat.until_shown("ready")
        assert is_raw(seat)
        seat.type(b"x\r")
        assert seat.wait() == 7
        assert seat.attributes() == before
        assert "stockade:" not in "".join(seat.picture.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_terminal_is_as_it_was(
    daemon: Daemon, number: signal.Signals
) -> None:
    with session(daemon, "sh", "-c", "trap 'exit 9' TERM HUP INT; echo ready; read x") as seat:
        seat.until_shown("ready")
        seat.process.send_signal(number)
        assert seat.wait() == 9
        assert seat.attributes() == seat.attributes_before


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM])
def test_a_signal_that_ends_us_leaves_the_terminal_as_it_was(
    daemon: Daemon, number: signal.Signals
) -> None:
    with session(daemon, "sh", "-c", "echo ready; read x") as seat:
        seat.until_shown("ready")
        assert is_raw(seat)
        seat.process.send_signal(number)
        assert seat.wait() == -number
        assert seat.attributes() == seat.attributes_before
    daemon.client.signal(last_call(daemon), signal.SIGKILL)


def test_the_keys_of_signals_are_the_programs(daemon: Daemon) -> None:
    script = "trap 'echo got it; exit 5' INT; echo ready; while :; do read x; done"
    with session(daemon, "sh", "-c", script) as seat:
        seat.until_shown("ready")
        seat.type(CTRL_C)
        assert seat.wait() == 5
        assert "got it" in "\n".join(seat.picture.lines)


def test_it_can_be_stopped_and_goes_on(daemon: Daemon) -> None:
    """By a shell with job control, which has the terminal meanwhile."""
    inner = f"{STOCKADE} run -q -t -p tty -- sh -c 'echo ready; while read x; do stty size; done'"
    shell = ["bash", "--norc", "--noprofile", "-i"]
    env = {**environment(daemon), "PS1": "> "}
    with seated(shell, rows=ROWS, columns=COLUMNS, env=env) as seat:
        seat.type(inner.encode() + b"\r")
        seat.until_shown("ready\n"[:5])
        seat.until(lambda: is_raw(seat))
        [pid] = children(seat.process.pid)
        os.kill(pid, signal.SIGTSTP)
        seat.until_shown("Stopped")
        attributes: Any = seat.attributes()
        assert attributes[OFLAG] & termios.OPOST
        seat.size(rows=30, columns=90)
        seat.type(b"fg\r")
        seat.until(lambda: is_raw(seat))
        wait_for(lambda: b"resized" in kinds(daemon))
        seat.type(b"x\r")
        seat.until_shown("30 90")
        seat.type(b"\x04")
        seat.until(lambda: not children(seat.process.pid))
        seat.type(b"exit 3\r")
        assert seat.wait() == 3


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_json_at_a_terminal(daemon: Daemon) -> None:
    argv = ["sh", "-c", "echo ready; read x; exit 4"]
    with at(daemon, "run", "--json", "-t", "-p", "tty", "--", *argv) as seat:
        seat.until(lambda: b'"event": "output"' in seat.wrote or b'"output"' in seat.wrote)
        seat.type(b"x\r")
        assert seat.wait() == 4
        events = [json.loads(line) for line in seat.wrote.splitlines() if line.strip()]
        assert events[-1]["event"] == "finished"


def test_what_cannot_be_at_a_terminal(daemon: Daemon) -> None:
    done = daemon.command("run", "-t", "-p", "tty", "--", "true", input=b"")
    assert done.returncode == 2
    assert b"-t needs a terminal" in done.stderr
    with at(daemon, "run", "-t", "-p", "base", "--", "true") as seat:
        assert seat.wait() == 125
        assert "terminal: allow" in "\n".join(seat.picture.lines)
        assert seat.attributes() == seat.attributes_before
    for options, said in ((["-d"], "--detach"), (["-i", "none"], "--stdin")):
        with at(daemon, "run", "-t", *options, "-p", "tty", "--", "true") as seat:
            assert seat.wait() == 2
            assert said in "\n".join(seat.picture.lines)


def test_a_session_runs_again(daemon: Daemon) -> None:
    """What was typed is typed again as fast as it was, a Ctrl-C in the middle too."""
    script = "trap 'echo int' INT; while :; do read x && echo got $x; [ $x = end ] && exit 6; done"
    with session(daemon, "sh", "-c", script) as seat:
        for typed, shown in ((b"one\r", "got one"), (CTRL_C, "int"), (b"two\r", "got two")):
            time.sleep(0.3)  # as people do: a Ctrl-C throws away what is on its way
            seat.type(typed)
            seat.until_shown(shown)
        seat.type(b"end\r")
        assert seat.wait() == 6
    done = daemon.command("audit", "rerun", "--json", last_call(daemon))
    found = json.loads(done.stdout)
    assert (found["rerun"]["exit_code"], found["differences"]) == (6, []), found


def test_the_daemon_goes_away(daemon: Daemon, tmp_path: Path) -> None:
    config = with_profiles(tmp_path / "profiles", tty="terminal: allow")
    with running_daemon(config=config, folder=tmp_path) as other:
        with session(other, "sh", "-c", "echo ready; read x") as seat:
            seat.until_shown("ready")
            assert is_raw(seat)
            other.kill()
            assert seat.wait() not in (0, None)
            assert seat.attributes() == seat.attributes_before
        other.start()
