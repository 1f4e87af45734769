"""`audit replay` of a real call: what it wrote, in order, with the times that are on record; and
`audit show`: who started whom, and the files."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.following import end_of, is_output, until
from tests.support.profiles import with_profiles

LITTLE = "record: {stdout: 1KiB}\n"
STORED = 1024
END_S = 60
SCRIPT = r"""
printf '\033[2J\342\202'; read _
printf 'two\rover\n' >&2; read _
printf '\254\n'; read _
head -c 5000 /dev/zero | tr '\0' x
exit 3
"""
BEGIN = b"\x1b[2J\xe2\x82\xac\n"
TAIL = STORED // 8
GAP = f"bytes {STORED} to {len(BEGIN) + 5000 - TAIL}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("replay")
    config = with_profiles(folder / "profiles", little=LITTLE)
    with running_daemon(config=config, folder=folder) as running:
        yield running


@pytest.fixture(scope="module")
def call_id(daemon: Daemon) -> str:
    """Run a program that is hostile to a terminal, and writes more than is kept."""
    argv = ["sh", "-c", SCRIPT]
    with daemon.client.execute(argv, profile="little", stdin_open=True) as execution:
        for _ in range(SCRIPT.count("read")):
            until(execution, is_output)  # each piece is one entry, before the next is written
            execution.write_stdin(b"on\n")
        assert end_of(execution).outcome == Exited(code=3)
        return execution.call_id


def test_a_terminal_obeys_nothing(daemon: Daemon, call_id: str) -> None:
    raw = daemon.command("audit", "replay", "--idle-max", "0", "--raw", call_id)
    assert raw.stdout == BEGIN + b"x" * (
        STORED + TAIL - len(BEGIN)
    )  # what would bite, does come back
    assert b"two\rover\n" in raw.stderr
    done = daemon.command("audit", "replay", "--speed", "100", call_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("\\e[2J€\nxxx".encode())
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stderr.startswith(b"two\\rover\n")
    typed = daemon.command("audit", "replay", "--no-timing", "--stream", "stdin", call_id)
    assert typed.stdout == b"on\non\non\n"
    for said in (
        f"stdout: {GAP} are not on record (cap)",
        f"call {call_id} exited with 3",
        f"stdout: 1.1 KiB of 4.9 KiB are on record: {GAP} are missing",
    ):
        assert said.encode() in done.stderr, said


def test_asciicast(daemon: Daemon, call_id: str) -> None:
    path = daemon.folder / "call.cast"
    done = daemon.command("audit", "replay", "--export", "asciicast", "-o", str(path), call_id)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    header, *events = map(json.loads, path.read_text().splitlines())
    assert header["version"] == 3
    texts = [(code, data) for _, code, data in events]
    assert texts[:3] == [("o", "\x1b[2J"), ("o", "two\rover\r\n"), ("o", "€\r\n")]
    assert texts[-3:] == [
        ("m", f"stdout: {GAP} are not on record (cap)"),
        ("o", "x" * TAIL),
        ("x", "3"),
    ]
    entries = daemon.client.record(call_id).entries
    (started,) = (entry for entry in entries if entry.kind == "started")
    outputs = [entry for entry in entries if entry.kind == "output"]
    assert round(1e6 * events[0][0]) == (outputs[0].time_ns - started.time_ns) // 1000
    took_us = round(sum(1e6 * interval for interval, _, _ in events))
    assert took_us == (entries[-1].time_ns - started.time_ns) // 1000


def test_an_interruption_is_quiet(daemon: Daemon, call_id: str) -> None:
    slow = ["--idle-max", "0.002", "--speed", "0.001"]
    argv = [STOCKADE, "audit", "replay", "--address", daemon.address, *slow, call_id]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as replaying:
        assert replaying.stdout is not None
        try:
            # It waits for the next piece, or asks the daemon for it.
            assert replaying.stdout.read(5) == b"\\e[2J"
            replaying.send_signal(signal.SIGINT)
            rest, said = replaying.communicate(timeout=END_S)
        finally:
            replaying.kill()
    assert replaying.returncode == 130
    assert (rest, said) == (b"", b"")


def test_the_story_has_the_processes_and_the_files(daemon: Daemon) -> None:
    given = daemon.folder / "in.csv"
    given.write_text("abc")
    script = "(env true; exit 3); cat in.csv > out; exit 0"
    done = daemon.client.run(
        ["sh", "-c", script], profile="little", files={"in.csv": given}, outputs=["out"]
    )
    assert done.outcome == Exited(code=0), done.stderr
    shown = daemon.command("audit", "show", done.call_id).stdout.decode()
    tree = re.search(
        r"""
        \n(?P<cell>.*exits\ with\ 0\ +\d+\ /.stockade/cell:\ .*)
        \n(?P<shell>.*exits\ with\ 0\ +└─\ \d+\ /.*:\ sh\ -c\ .*)
        \n(?P<forked>.*exits\ with\ 3\ +├─\ \d+\ was\ forked,\ and\ ran\ no\ other\ program)
        \n(?P<env>.*exits\ with\ 0\ +│\ \ └─\ \d+\ /.*/env:\ env\ true)
        \n(?P<true>\ +│\ +then\ /.*/true:\ true)
        \n(?P<cat>.*exits\ with\ 0\ +└─\ \d+\ /.*/cat:\ cat\ in.csv)\n
        """,
        shown,
        re.VERBOSE,
    )
    assert tree, shown
    digest = hashlib.sha256(b"abc").hexdigest()
    assert f"\nin   in.csv  3 B   {digest}\nout  out     3 B   {digest}\n" in shown
