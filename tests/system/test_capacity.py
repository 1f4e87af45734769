"""A flood of output and a crowd of calls: bounded memory, true digests, and a clear no."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.call.types import Digest, Stream
from supervisor.client import Execution, Output, Retry, Supervisor
from supervisor.errors import CapacityError
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import end_of, is_output, is_started, until
from tests.support.profiles import with_profiles
from tests.support.rounds import SOAK
from tests.support.threads import at_once

MIB = 1 << 20
FLOOD_MIB = 1024 if SOAK else 256
TAIL = 64 * 1024
STORED_MAX = 8 * MIB
GROWTH_MAX = 64 * MIB
CALLS = 50
FLOOD = """
limits: {wall: 280s, cpu: 280s, output: 2GiB}
record: {stdout: 8MiB}
"""
FOLLOWED = "limits: {wall: 280s, cpu: 280s, output: 2GiB}"
FOLLOWED_BYTES = 80 * MIB
# Each MiB is another: digest and order both show a mistake.
PROGRAM = """
import sys
for n in range(int(sys.argv[1])):
    sys.stdout.buffer.write(n.to_bytes(8, 'big') * 131072)
"""
log = logging.getLogger(__name__)
NO_RETRY = Retry(attempts_max=0)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = with_profiles(tmp_path_factory.mktemp("profiles"), flood=FLOOD, followed=FOLLOWED)
    with running_daemon(config={**config, "limits": {"calls": CALLS}}) as running:
        running.client.run(["true"], profile="base")
        yield running


class MemoryWatch(threading.Thread):
    """Looks at a process's resident memory until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._stop_now = threading.Event()
        self.before = self.peak = self.look()

    def look(self) -> int:
        """Read VmRSS in bytes (proc_pid_status(5))."""
        fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) << 10

    def run(self) -> None:
        """Look often."""
        while not self._stop_now.wait(0.02):
            self.peak = max(self.peak, self.look())

    def stop(self) -> int:
        """Stop, and give the growth."""
        self._stop_now.set()
        self.join()
        return self.peak - self.before


def expected_digest() -> Digest:
    whole = hashlib.sha256()
    for number in range(FLOOD_MIB):
        whole.update(number.to_bytes(8, "big") * 131072)
    return Digest(sha256=whole.hexdigest(), size_bytes=FLOOD_MIB * MIB)


@pytest.mark.slow
def test_a_gibibyte_of_output(daemon: Daemon) -> None:
    """In `make test` a quarter of it: many times what the daemon may grow by."""
    watch = MemoryWatch(daemon.pid)
    watch.start()
    begun = time.monotonic()
    seen = {"stored": 0, "truncated": 0}
    received = hashlib.sha256()
    argv = ["python3", "-c", PROGRAM, str(FLOOD_MIB)]
    with daemon.client.execute(argv, profile="flood") as execution:
        for event in execution:
            if isinstance(event.event, Output):
                assert event.event.offset == seen["stored"] + seen["truncated"]
                seen["truncated" if event.event.truncated else "stored"] += len(event.event.data)
                received.update(event.event.data)
        finished = event.event
    growth = watch.stop()
    log.info("%.1f s, grown by %d MiB", time.monotonic() - begun, growth >> 20)
    assert finished.outcome == Exited(code=0)  # type: ignore[union-attr]
    (stdout,) = [s for s in finished.streams if s.stream is Stream.STDOUT]  # type: ignore[union-attr]
    assert stdout.digest == expected_digest()
    assert (stdout.stored_bytes, stdout.tail_bytes) == (STORED_MAX + TAIL, TAIL)
    assert stdout.truncated
    assert seen == {"stored": STORED_MAX, "truncated": FLOOD_MIB * MIB - STORED_MAX}
    assert received.hexdigest() == stdout.digest.sha256
    recorded = hashlib.sha256()
    size = 0
    for data in daemon.client.read_output(execution.call_id, Stream.STDOUT):
        recorded.update(data)
        size += len(data)
    assert size == STORED_MAX + TAIL
    beginning = b"".join(number.to_bytes(8, "big") * 131072 for number in range(8))
    end = (FLOOD_MIB - 1).to_bytes(8, "big") * (TAIL // 8)
    assert recorded.digest() == hashlib.sha256(beginning + end).digest()
    assert growth < GROWTH_MAX


@pytest.mark.slow
def test_a_reader_that_is_slow_costs_no_memory(daemon: Daemon) -> None:
    """It holds the program up; nothing piles up in the daemon."""
    watch = MemoryWatch(daemon.pid)
    watch.start()
    argv = ["head", "-c", str(200 * MIB), "/dev/zero"]
    with daemon.client.execute(argv, profile="flood") as execution:
        until(execution, is_output)
        time.sleep(1.5)
        size = sum(len(event.event.data) for event in execution if isinstance(event.event, Output))
    assert size > 190 * MIB
    assert watch.stop() < GROWTH_MAX


def test_a_crowd_at_once(daemon: Daemon) -> None:
    """As many calls as are allowed end rightly, each with its own output and nobody else's."""
    ready = threading.Barrier(CALLS)

    def one(number: int) -> tuple[int, bytes]:
        with Supervisor(daemon.address, retry=NO_RETRY) as client:
            ready.wait(30)
            script = f"echo {number}; sleep 0.2; echo {number} >&2; exit {number}"
            call = client.run(["sh", "-c", script], profile="shell")
        assert call.stderr == call.stdout
        return call.exit_code, call.stdout

    results = at_once(one, range(CALLS), workers=CALLS)
    assert results == [(number, b"%d\n" % number) for number in range(CALLS)]


def test_one_more_than_the_limit(daemon: Daemon) -> None:
    """All places are taken by calls that run; the next is told when to try again."""

    def begin(_: int) -> Execution:
        execution = daemon.client.execute(["cat"], profile="base", stdin_open=True)
        until(execution, is_started)
        return execution

    executions = at_once(begin, range(CALLS), workers=10)
    before = len(list(daemon.client.list_calls()))
    try:
        with (
            Supervisor(daemon.address, retry=NO_RETRY) as client,
            pytest.raises(CapacityError) as raised,
        ):
            client.run(["true"], profile="base")
        assert raised.value.reason == "CALLS_LIMIT"
        assert raised.value.code == "RESOURCE_EXHAUSTED"
        assert raised.value.retry_after_s is not None
        assert raised.value.retry_after_s > 0
        assert len(list(daemon.client.list_calls())) == before
        executions[0].close_stdin()
        assert end_of(executions[0]).outcome == Exited(code=0)
        time.sleep(raised.value.retry_after_s)
        assert daemon.client.run(["true"], profile="base").ok
    finally:
        for execution in executions[1:]:
            execution.close_stdin()
    ends = at_once(end_of, executions[1:], workers=10)
    assert all(end.outcome == Exited(code=0) for end in ends)


@pytest.mark.slow
def test_a_reader_that_stops_for_long(daemon: Daemon) -> None:
    """It is let go after a while, so that the program and other readers go on; and when it comes
    back it gets everything from where it was."""
    argv = ["head", "-c", str(FOLLOWED_BYTES), "/dev/urandom"]
    with daemon.client.execute(argv, profile="followed") as stopped:
        until(stopped, is_started)
        with Supervisor(daemon.address) as client:
            finished = end_of(client.attach(stopped.call_id))
        received = hashlib.sha256()
        for event in stopped:
            if isinstance(event.event, Output):
                received.update(event.event.data)
    assert event.event == finished
    assert finished.outcome == Exited(code=0)
    (stdout,) = [s for s in finished.streams if s.stream is Stream.STDOUT]
    assert stdout.stored_bytes == FOLLOWED_BYTES
    assert stdout.digest.sha256 == received.hexdigest()
