"""A call from start to end: what goes in, what comes out, and how it ends."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited, Failed, Signaled
from supervisor.call.types import Digest, SkippedFile
from supervisor.client import FinishedCall, Output, Stream
from supervisor.errors import InvalidRequest, OutcomeError
from tests.support.daemon import Daemon
from tests.support.rounds import rounds
from tests.support.threads import at_once

EDGES = [0, 1, 2, 125, 126, 127, 128, 137, 254, 255]
SIGNALS = [
    signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE,
    signal.SIGALRM, signal.SIGTERM, signal.SIGSYS, signal.SIGRTMIN,
]  # fmt: skip
CATS = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def run(daemon: Daemon, *argv: str | bytes, profile: str = "base", **more: object) -> FinishedCall:
    return daemon.client.run(argv, profile=profile, **more)  # type: ignore[arg-type]


def test_exit_codes(shared_daemon: Daemon) -> None:
    codes = [*EDGES, *random.sample(range(256), rounds(6))]
    calls = at_once(lambda code: run(shared_daemon, "sh", "-c", f"exit {code}"), codes)
    assert [call.outcome for call in calls] == [Exited(code=code) for code in codes]
    assert [call.exit_code for call in calls] == codes


def test_signals_that_the_program_gets_from_itself(shared_daemon: Daemon) -> None:
    calls = at_once(
        lambda number: run(shared_daemon, "sh", "-c", f"kill -{int(number)} $$; sleep 30"), SIGNALS
    )
    assert [call.outcome for call in calls] == [
        Signaled(signal=number, core_dumped=False) for number in SIGNALS
    ]
    assert [call.exit_code for call in calls] == [128 + number for number in SIGNALS]


def test_check_raises_for_every_end_but_zero(shared_daemon: Daemon) -> None:
    with pytest.raises(OutcomeError) as raised:
        run(shared_daemon, "sh", "-c", "echo sad >&2; exit 3", check=True)
    assert raised.value.reason == "EXITED"
    assert raised.value.exit_code == 3
    assert run(shared_daemon, "true", check=True).ok


@pytest.mark.parametrize(
    ("argv", "more", "reason"),
    [
        (["no-such-program"], {}, "EXEC_FAILED"),
        (["/etc/passwd"], {}, "EXEC_FAILED"),
        (["/work"], {}, "EXEC_FAILED"),
        (["true"], {"cwd": "/no/such/folder"}, "WORKING_DIRECTORY"),
        (["true"], {"cwd": "/etc/passwd"}, "WORKING_DIRECTORY"),
    ],
)
def test_what_cannot_be_run(
    shared_daemon: Daemon, argv: list[str], more: dict[str, str], reason: str
) -> None:
    call = run(shared_daemon, *argv, **more)
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == reason
    assert call.exit_code == 125


def test_a_program_in_work_is_not_executable(shared_daemon: Daemon) -> None:
    call = run(shared_daemon, "./script", files={"script": b"#!/bin/sh\necho never\n"})
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == "EXEC_FAILED"
    assert call.stdout == b""


def test_arguments_arrive_byte_for_byte(shared_daemon: Daemon) -> None:
    arguments = [b"", b" ", b"%", b"%41", b"\xff\xfe", bytes(range(1, 256)), "é ✓ 日本".encode(),
                 b"a\nb", b"'\"$(x)`y`", b"--", b"-c", b"x" * 100_000]  # fmt: skip
    program = "import os, sys\nfor a in sys.argv[1:]: print(os.fsencode(a).hex())"
    call = run(shared_daemon, "python3", "-c", program, *arguments)
    assert call.outcome == Exited(code=0), call.stderr
    assert [bytes.fromhex(line.decode()) for line in call.stdout.split(b"\n")[:-1]] == arguments


def test_the_environment_is_the_profiles_and_the_requests(shared_daemon: Daemon) -> None:
    given = {"EMPTY": b"", "BYTES": b"\xff%41\n", "PERCENT": b"%00"}
    call = run(shared_daemon, "env", "-0", profile="python", env=given)
    found = dict(item.split(b"=", 1) for item in call.stdout.split(b"\0")[:-1])
    assert {name: found[name.encode()] for name in given} == given
    assert found[b"HOME"] == b"/work"
    assert found[b"PYTHONNOUSERSITE"] == b"1"
    profiles = {b"PATH", b"HOME", b"LANG", b"PYTHONDONTWRITEBYTECODE", b"PYTHONUNBUFFERED",
                b"PYTHONNOUSERSITE"}  # fmt: skip
    assert set(found) == profiles | {name.encode() for name in given}


def test_a_request_cannot_set_what_the_profile_sets(shared_daemon: Daemon) -> None:
    with pytest.raises(InvalidRequest) as raised:
        run(shared_daemon, "env", env={"PATH": "/work"})
    assert raised.value.reason == "ENV_INVALID"


def test_working_directory(shared_daemon: Daemon) -> None:
    assert run(shared_daemon, "pwd").stdout == b"/work\n"
    assert run(shared_daemon, "pwd", cwd="/tmp").stdout == b"/tmp\n"
    deep = run(shared_daemon, "/bin/pwd", cwd=b"/work/a/\xff", files={"a/\udcff/x": b""})
    assert deep.stdout == b"/work/a/\xff\n"


def test_both_streams_are_apart_and_whole(shared_daemon: Daemon) -> None:
    program = "import sys; sys.stdout.write('o' * 300000); sys.stderr.write('e' * 200000)"
    call = run(shared_daemon, "python3", "-c", program)
    assert (call.stdout, call.stderr) == (b"o" * 300_000, b"e" * 200_000)
    digests = {summary.stream: summary.digest for summary in call.finished.streams}
    assert digests == {
        Stream.STDOUT: Digest.of(call.stdout),
        Stream.STDERR: Digest.of(call.stderr),
    }
    assert not call.stdout_truncated
    assert not any(summary.truncated for summary in call.finished.streams)


def test_events_come_in_the_order_of_the_record(shared_daemon: Daemon) -> None:
    argv = ["sh", "-c", "for i in 1 2 3 4 5; do echo $i; echo $i >&2; done"]
    with shared_daemon.client.execute(argv, profile="shell") as execution:
        events = list(execution)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)
    names = [type(event.event).__name__ for event in events]
    assert names[:2] == ["Accepted", "Started"]
    assert set(names[2:-1]) == {"Output", "Processes"}
    assert names[-1] == "Finished"
    for stream in (Stream.STDOUT, Stream.STDERR):
        told = [e.event for e in events if isinstance(e.event, Output) and e.event.stream is stream]
        assert b"".join(output.data for output in told) == b"1\n2\n3\n4\n5\n"


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_048_576, 3_000_001])
def test_standard_input(shared_daemon: Daemon, size: int) -> None:
    data = os.urandom(size)
    call = run(shared_daemon, "python3", "-c", CATS, stdin=data, profile="python")
    assert hashlib.sha256(call.stdout).digest() == hashlib.sha256(data).digest()
    recorded = b"".join(shared_daemon.client.read_output(call.call_id, Stream.STDIN))
    assert recorded == data


def test_a_program_that_does_not_read_its_input(shared_daemon: Daemon) -> None:
    call = run(shared_daemon, "true", stdin=b"x" * 3_000_000)
    assert call.outcome == Exited(code=0)
    call = run(shared_daemon, "head", "-c", "5", stdin=b"x" * 3_000_000)
    assert call.stdout == b"xxxxx"


def test_files_go_in_and_come_out(shared_daemon: Daemon, tmp_path: Path) -> None:
    tool = tmp_path / "tool.sh"
    tool.write_text("echo ran\n")
    tool.chmod(0o755)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(5_000_000))
    files = {"in/a.txt": b"alpha", "in/b\udcfe": b"\xff" * 10, "large": large, "tool.sh": tool}
    script = (
        "stat -c '%a %n' tool.sh in/a.txt; sh tool.sh; mkdir -p out/deep; cp large out/; "
        "cp in/* out/deep/; chmod 600 out/large; chmod 700 out/deep/a.txt; "
        "ln -s /etc/passwd out/link; mkfifo out/pipe; echo no > other"
    )
    call = run(shared_daemon, "sh", "-c", script, files=files, outputs=["out/**"])
    assert call.stderr == b""
    assert call.stdout == b"755 tool.sh\n644 in/a.txt\nran\n"
    assert dict(call.outputs) == {
        "out/large": large.read_bytes(),
        "out/deep/a.txt": b"alpha",
        "out/deep/b\udcfe": b"\xff" * 10,
    }
    modes = {path: file.mode for path, file in call.outputs.files.items()}
    assert modes == {"out/large": 0o600, "out/deep/a.txt": 0o700, "out/deep/b\udcfe": 0o644}
    assert set(call.skipped) == {
        SkippedFile(path=b"out/link", reason="NOT_REGULAR"),
        SkippedFile(path=b"out/pipe", reason="NOT_REGULAR"),
    }
    saved = call.outputs.save(tmp_path / "saved")
    assert sorted(path.read_bytes() for path in saved) == sorted(call.outputs.values())


def test_outputs_are_taken_also_of_a_call_that_failed(shared_daemon: Daemon) -> None:
    call = run(shared_daemon, "sh", "-c", "echo log > a.log; kill -9 $$", outputs=["*.log"])
    assert call.outcome == Signaled(signal=9)
    assert dict(call.outputs) == {"a.log": b"log\n"}


def test_more_outputs_than_an_entry_can_name(shared_daemon: Daemon) -> None:
    """What does not fit is named as skipped; nothing else of the call suffers."""
    script = "i=0; while [ $i -lt 400 ]; do echo $i > some-longer-name-$i; i=$((i+1)); done"
    call = run(shared_daemon, "sh", "-c", script, outputs=["*"])
    assert call.outcome == Exited(code=0)
    assert 50 < len(call.outputs) < 400
    assert {skipped.reason for skipped in call.skipped} == {"TOO_MANY"}
    for name, data in list(call.outputs.items())[:: rounds(1) * 40]:
        assert data.decode().strip() == name.rpartition("-")[2]


def test_every_call_is_alone(shared_daemon: Daemon) -> None:
    """Nothing that one call wrote is there for the next, and no process of another is seen."""
    run(shared_daemon, "sh", "-c", "echo x > /work/left; echo x > /tmp/left")
    call = run(shared_daemon, "sh", "-c", "ls -A /work /tmp; set -- /proc/[0-9]*; echo $#")
    assert call.stdout.split() == [b"/tmp:", b"/work:", b"2"]


def test_orphans_die_with_the_call(shared_daemon: Daemon) -> None:
    script = "(setsid sleep 300 >/dev/null 2>&1 &) ; (sleep 300 &) ; echo done"
    call = run(shared_daemon, "sh", "-c", script)
    assert call.outcome == Exited(code=0)
    assert call.stdout == b"done\n"
    assert shared_daemon.sandbox_processes() == []
