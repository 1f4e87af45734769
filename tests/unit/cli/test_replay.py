"""`audit replay`: when what is written where, and nothing that a terminal would obey. No test
waits: the timer is one that takes note."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli import replay
from supervisor.cli.playback import End, Moment
from supervisor.v1 import audit_pb2, types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.cli.record import written_response
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon

OUT, ERR = b"a\x1b[2J\xe2", b"err\rover\r\n"
DATA = {
    types_pb2.STD_STREAM_STDOUT: OUT + b"\x82\xac",
    types_pb2.STD_STREAM_STDERR: ERR,
    types_pb2.STD_STREAM_STDIN: b"typed",
}


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give when each moment was due; nobody waits for it."""
    due: list[float] = []

    class Noting:
        def wait(self, due_s: float) -> None:
            due.append(due_s)

    monkeypatch.setattr(replay, "Timer", Noting)
    return due


@pytest.fixture
def played(daemon: FakeDaemon, waited: list[float]) -> FakeDaemon:
    cut = fake.summary(b"x" * 2048)
    cut.stored_bytes = 1024
    made = written_response(
        (0, "started", {"preparation_s": 0.02}),
        (0, "output", {"stream": "stdin", "offset": 0, "length": 5}),
        (1000, "output", {"stream": "stdout", "offset": 0, "length": len(OUT)}),
        (2000, "output", {"stream": "stderr", "offset": 0, "length": len(ERR)}),
        (12000, "output", {"stream": "stdout", "offset": len(OUT), "length": 2}),
        (12000, "truncated", {"stream": "stdout", "offset": len(OUT) + 2, "why": "cap"}),
        (13000, "outcome", {"outcome": {"kind": "exited", "code": 0}}),
        finished=fake.finish(streams=[cut]),
    )
    daemon.play("GetRecord", lambda _: made)
    daemon.play(
        "ReadOutput",
        lambda request: iter([audit_pb2.ReadOutputResponse(data=DATA[request.stream])]),
    )
    return daemon


@pytest.mark.usefixtures("played")
def test_what_was_written_is_safe_and_has_its_times(
    stockade: Stockade, waited: list[float]
) -> None:
    done = stockade("audit", "replay", "call-1")
    assert (done.exit_code, done.stdout) == (0, "a\\e[2J€")
    assert done.stderr == (
        "err\\rover\n"
        "stockade: stdout: what follows byte 8 is not stored (cap)\n"
        "stockade: call call-1 exited with 0, +13 s\n"
        "stockade: stdout: 1.0 KiB of 2.0 KiB are on record\n"
    )
    assert waited == [1, 2, 12, 12, 13]


@pytest.mark.parametrize(
    ("options", "due"),
    [
        (["--speed", "2"], [0.5, 1, 6, 6, 6.5]),
        (["--idle-max", "3"], [1, 2, 5, 5, 6]),
        (["--no-timing"], []),
    ],
)
@pytest.mark.usefixtures("played")
def test_times_can_be_others(
    stockade: Stockade, waited: list[float], options: list[str], due: list[float]
) -> None:
    assert stockade("audit", "replay", *options, "call-1").stdout == "a\\e[2J€"
    assert waited == due


def test_one_stream(played: FakeDaemon, stockade: Stockade) -> None:
    done = stockade("audit", "replay", "--stream", "stdin", "call-1")
    assert (done.stdout, done.stderr) == ("typed", "stockade: call call-1 exited with 0, +13 s\n")
    assert [r.stream for r in played.asked("ReadOutput")] == [types_pb2.STD_STREAM_STDIN]


@pytest.mark.usefixtures("played")
def test_raw_is_as_it_was_and_says_so(stockade: Stockade) -> None:
    done = stockade("audit", "replay", "--raw", "call-1")
    assert done.stdout_bytes == DATA[types_pb2.STD_STREAM_STDOUT]
    assert done.stderr_bytes.startswith(b"stockade: raw: your terminal obeys")
    assert ERR in done.stderr_bytes


@pytest.mark.usefixtures("played")
def test_json_has_it_all_at_once(stockade: Stockade, waited: list[float]) -> None:
    lines = stockade("audit", "replay", "--json", "call-1").stdout.splitlines()
    first, second, third, gap = map(json.loads, lines)
    assert base64.b64decode(first.pop("data")) == OUT
    assert first == {"at_s": 1.0, "stream": "stdout", "offset": 0}
    assert (second["stream"], third["offset"]) == ("stderr", len(OUT))
    assert gap == {"at_s": 12.0, "missing": "stdout: what follows byte 8 is not stored (cap)"}
    assert waited == []


@pytest.mark.usefixtures("played")
def test_interruption(stockade: Stockade, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def wait(self, due_s: float) -> None:
            if due_s > 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(replay, "Timer", Interrupting)
    done = stockade("audit", "replay", "call-1")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "a\\e[2J", "")


def test_a_live_call_shows_what_is_there(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("GetRecord", lambda _: written_response())
    said = stockade("audit", "replay", "call-1").stderr
    assert said == "stockade: call call-1 is running; this is what is on record so far, +0 s\n"


def test_fewer_bytes_than_recorded_are_damage(played: FakeDaemon, stockade: Stockade) -> None:
    played.play("ReadOutput", lambda _: iter([]))
    done = stockade("audit", "replay", "call-1")
    assert done.exit_code == 8
    assert "[RECORDING_SHORT]" in done.stderr


@pytest.mark.usefixtures("played")
def test_export(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "call.cast"
    export = ("audit", "replay", "--export", "asciicast", "--idle-max", "2")
    done = stockade(*export, "-o", path, "call-1")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "stockade: stdout: 1.0 KiB of 2.0 KiB are on record\n"
    assert path.stat().st_mode & 0o777 == 0o600
    header, *events = map(json.loads, path.read_text().splitlines())
    assert (header["version"], header["idle_time_limit"]) == (3, 2.0)
    assert events == [
        [1.0, "o", "a\x1b[2J"], [1.0, "o", "err\rover\r\r\n"], [10.0, "o", "€"],
        [0.0, "m", "stdout: what follows byte 8 is not stored (cap)"], [1.0, "x", "0"],
    ]  # fmt: skip
    assert stockade(*export, "call-1").stdout == path.read_text()


@pytest.mark.usefixtures("played")
def test_export_writes_over_nothing(stockade: Stockade, tmp_path: Path) -> None:
    path = tmp_path / "call.cast"
    path.write_text("mine")
    done = stockade("audit", "replay", "--export", "asciicast", "-o", path, "call-1")
    assert done.exit_code == 2
    assert "[FILE_EXISTS]" in done.stderr
    assert path.read_text() == "mine"


def test_half_an_export_is_none(played: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    played.play("ReadOutput", lambda _: iter([]))
    path = tmp_path / "call.cast"
    done = stockade("audit", "replay", "--export", "asciicast", "-o", path, "call-1")
    assert done.exit_code == 8
    assert not path.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--export", "asciicast", "--speed", "2"],
        ["--export", "asciicast", "--no-timing"],
        ["--export", "asciicast", "--raw"],
        ["--export", "asciicast", "--json"],
        ["--export", "gif"],
        ["-o", "x"],
        ["--raw", "--json"],
        ["--no-timing", "--speed", "2"],
        ["--speed", "0"],
        ["--speed", "nan"],
        ["--speed", "inf"],
        ["--idle-max", "-1"],
        ["--idle-max", "nan"],
        ["--idle-max", "inf"],
        ["--stream", "log"],
    ],
    ids=" ".join,
)
def test_what_does_not_go_together(stockade: Stockade, options: list[str]) -> None:
    assert stockade("audit", "replay", *options, "call-1").exit_code == 2


def test_the_timer_sleeps_until_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], list[float]()

    def sleep(duration_s: float) -> None:
        slept.append(duration_s)
        now[0] += duration_s

    monkeypatch.setattr("supervisor.cli.replay.time.monotonic", lambda: now[0])
    monkeypatch.setattr("supervisor.cli.replay.time.sleep", sleep)
    timer = replay.Timer()
    timer.wait(0)
    timer.wait(5)
    timer.wait(4)
    timer.wait(3705)
    assert slept == [5, replay.SLEEP_S_MAX, 100]


class TestInterruption:
    def test_not_while_the_daemon_is_asked(self) -> None:
        reached: list[str] = []

        def asking() -> Iterator[Moment]:
            signal.raise_signal(signal.SIGINT)
            reached.append("answered")
            yield End(at_ns=0)

        with replay.Interruption() as interruption, pytest.raises(KeyboardInterrupt):
            next(interruption.between(asking()))
        assert reached == ["answered"]

    def test_at_once_in_between(self) -> None:
        with replay.Interruption() as interruption:
            for _ in interruption.between([End(at_ns=0)]):
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)

    def test_the_second_is_taken_at_once(self) -> None:
        with replay.Interruption():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    @pytest.mark.parametrize("former", [signal.default_int_handler, signal.SIG_IGN])
    def test_what_was_before_is_there_again(self, former: object) -> None:
        saved = signal.signal(signal.SIGINT, former)  # type: ignore[arg-type]
        try:
            with replay.Interruption():
                assert (signal.getsignal(signal.SIGINT) is former) is (former is signal.SIG_IGN)
            assert signal.getsignal(signal.SIGINT) is former
        finally:
            signal.signal(signal.SIGINT, saved)


DRAWN = b"\x1b[31mred\nbelow\x1b]52;c;ZXZpbA==\x07\r\n"


@pytest.fixture
def session(daemon: FakeDaemon, waited: list[float]) -> FakeDaemon:
    """A call that had a terminal, and another size of it in the middle."""
    asked = {"terminal": {"rows": 24, "columns": 80, "term": "xterm"}}
    made = written_response(
        (0, "intent", {"request": asked}),
        (0, "started", {"preparation_s": 0.02}),
        (1000, "output", {"stream": "stdout", "offset": 0, "length": 10}),
        (2000, "resized", {"rows": 50, "columns": 132}),
        (3000, "output", {"stream": "stdout", "offset": 10, "length": len(DRAWN) - 10}),
        finished=fake.finish(),
    )
    daemon.play("GetRecord", lambda _: made)
    daemon.play("ReadOutput", lambda _: iter([audit_pb2.ReadOutputResponse(data=DRAWN)]))
    return daemon


@pytest.mark.usefixtures("session")
def test_of_a_terminal_what_only_draws_is_passed_on(stockade: Stockade) -> None:
    done = stockade("audit", "replay", "call-1")
    assert done.stdout_bytes.startswith(b"\x1b[31mred\x1bDbelow\r\n\x1b7\x1b[r")
    assert done.stdout_bytes.endswith(b"\x1b8\r\n")
    assert done.stderr.startswith("stockade: a terminal of 80x24, 132x50\n")
    assert "left out 1 sequences that do more than draw; --raw has them" in done.stderr


@pytest.mark.usefixtures("session")
def test_of_a_terminal_raw_is_as_it_was(stockade: Stockade) -> None:
    done = stockade("audit", "replay", "--raw", "call-1")
    assert done.stdout_bytes == DRAWN
    assert "left out" not in done.stderr


@pytest.mark.usefixtures("session")
def test_json_has_the_sizes(stockade: Stockade) -> None:
    lines = stockade("audit", "replay", "--json", "call-1").stdout.splitlines()
    assert [json.loads(line).get("rows") for line in lines] == [None, 50, None]
    assert json.loads(lines[1]) == {"at_s": 2.0, "rows": 50, "columns": 132}


@pytest.mark.usefixtures("session")
def test_an_interruption_leaves_the_terminal_as_it_was(
    stockade: Stockade, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        def wait(self, due_s: float) -> None:
            if due_s > 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(replay, "Timer", Interrupting)
    done = stockade("audit", "replay", "call-1")
    assert done.exit_code == 130
    assert done.stdout.startswith("\x1b[31mred\x1bDb\x1b7\x1b[r")
