"""Start programs, wait for them, and reap what is orphaned to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux import process
from supervisor.linux.fds import make_pipe

ROOT = Path(__file__).resolve().parents[3]
SH = "/bin/sh"


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def output_of(script: str, **options: bool) -> bytes:
    """Run a shell script whose output goes to a pipe of ours."""
    pipe = make_pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    pid = process.spawn([SH, "-c", script], fds={0: null, 1: pipe.write, 2: null}, **options)
    os.close(pipe.write)
    os.close(null)
    said = read_all(pipe.read)
    os.close(pipe.read)
    os.waitpid(pid, 0)
    process.disown(pid)
    return said


def ended(script: str) -> int:
    async def main() -> int:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        pid = process.spawn([SH, "-c", script], fds={0: null, 1: null, 2: null})
        os.close(null)
        pidfd = os.pidfd_open(pid)
        try:
            return await process.wait(pidfd)
        finally:
            os.close(pidfd)

    return asyncio.run(main())


def test_nothing_is_inherited_but_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "leaked")
    names = {line.partition(b"=")[0] for line in output_of("env").splitlines()}
    assert names - {b"PWD", b"SHLVL", b"_"} == {b"PATH", b"LC_ALL"}
    inherited = make_pipe()
    try:
        ours = os.readlink(f"/proc/self/fd/{inherited.read}")  # noqa: PTH115 (no path)
        assert ours.startswith("pipe:")
        assert ours.encode() not in output_of("ls -l /proc/self/fd")
    finally:
        os.close(inherited.read)
        os.close(inherited.write)


def test_a_descriptor_may_be_the_target_of_another() -> None:
    """0 → 1 and 1 → 0 at once: neither overwrites the other before it was copied."""
    one, two = make_pipe(), make_pipe()
    low = min(one.write, two.write)
    high = max(one.write, two.write)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    code = f"import os; os.write({low}, b'a'); os.write({high}, b'b')"
    pid = process.spawn(
        [sys.executable, "-I", "-c", code], fds={0: null, 1: null, 2: null, low: high, high: low}
    )
    for fd in (one.write, two.write, null):
        os.close(fd)
    os.waitpid(pid, 0)
    process.disown(pid)
    into_low = one.read if one.write == low else two.read
    into_high = one.read if one.write == high else two.read
    assert (read_all(into_low), read_all(into_high)) == (b"b", b"a")
    os.close(one.read)
    os.close(two.read)


def test_a_session_of_its_own() -> None:
    script = "ps -o sid= -p $$; echo $$"
    session, pid = output_of(script).split()
    assert session == pid
    session, pid = output_of(script, new_session=False).split()
    assert session != pid


def test_signals_begin_with_their_defaults() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        said = output_of("grep -E 'Sig(Ign|Blk)' /proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGTERM, before)
    masks = [int(line.split()[1], 16) for line in said.splitlines()]
    wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1]
    assert all(not mask >> (number - 1) & 1 for mask in masks for number in wanted)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -15 $$", -15)])
def test_how_a_child_ended(script: str, status: int) -> None:
    assert ended(script) == status


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        process.spawn(["/no/such/program"], fds={})


def test_a_signal_reaches_exactly_that_process() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            assert process.send_signal(pidfd, signal.SIGKILL)
            child.wait()
            assert not process.send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


@pytest.fixture
def zombie() -> Iterator[int]:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    while process._state(pid) != "Z":
        os.sched_yield()
    yield pid
    process.disown(pid)
    process.reap_strangers()


def test_a_stranger_is_reaped(zombie: int) -> None:
    assert zombie in process.zombie_children()
    assert process.reap_strangers() >= 1
    assert zombie not in process.zombie_children()


def test_a_child_that_somebody_waits_for_is_left_to_them(zombie: int) -> None:
    pidfd = process.adopt(zombie)
    try:
        assert process.reap_strangers() == 0
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED) is not None
    finally:
        os.close(pidfd)


def test_an_orphan_comes_to_the_subreaper() -> None:
    code = (
        "import os, time\n"
        "from supervisor.linux import process\n"
        "process.become_subreaper()\n"
        "import subprocess\n"
        "script = 'sleep 0.1 >/dev/null & echo $!'\n"
        "orphan = int(subprocess.check_output(['sh', '-c', script]))\n"
        "while process._state(orphan) != 'Z': time.sleep(0.01)\n"
        "print(process.reap_strangers(), process._state(orphan) == '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60
    )
    assert done.stdout == b"1 True\n"


def test_the_name_of_a_process() -> None:
    assert process.comm(os.getpid()) == Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    with subprocess.Popen(["true"]) as child:
        child.wait()
        assert process.comm(child.pid) == b""


def test_a_heap_can_be_trimmed() -> None:
    process.trim_heap()
