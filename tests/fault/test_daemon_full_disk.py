"""A full disk under a daemon's state: calls that run get their outcome written, new ones are
refused with the reason, and service comes back by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.outcome import Exited, Failed, Interrupted, Stopped
from supervisor.call.types import Digest, Stream
from supervisor.client import Execution
from supervisor.errors import AuditUnavailable, CapacityError
from tests.support.daemon import Daemon, running_daemon
from tests.support.disk import fill, filled, small_disk
from tests.support.following import end_of, is_output, is_started, until, wait_for
from tests.support.profiles import with_profiles
from tests.support.rounds import rounds

pytestmark = pytest.mark.root

DISK_BYTES = 80 << 20
BALLAST_BYTES = 30 << 20
FLOOD_BYTES = 150 << 20
FLOOD = """\
limits: {output: 1GiB}
record: {redact: {off: "random bytes may look like a secret, and what comes back is counted"}}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, DISK_BYTES) as mount:
        yield mount


@contextlib.contextmanager
def daemon_on(disk: Path, folder: Path) -> Iterator[Daemon]:
    """Run a daemon with nothing but its state on the disk, and verify the record in the end."""
    folder.mkdir()
    (disk / "state").mkdir()
    (folder / "state").symlink_to(disk / "state")
    config = with_profiles(folder / "profiles", flood=FLOOD)
    with running_daemon(config=config, folder=folder) as daemon:
        yield daemon
        assert daemon.alive
    report = verify(disk / "state")
    assert report.ok, "\n".join(map(str, report.problems))
    assert report.open_calls == ()


def begin(daemon: Daemon, *argv: str, profile: str = "base") -> Execution:
    execution = daemon.client.execute(argv, profile=profile, stdin_open=True)
    until(execution, is_started)
    return execution


def require_refusal(daemon: Daemon) -> None:
    """See that nothing new is taken, and that everybody is told why."""
    wait_for(lambda: not daemon.serving())
    before = [call.call_id for call in daemon.client.list_calls()]
    with pytest.raises(CapacityError) as raised:
        daemon.client.run(["true"], profile="base")
    assert raised.value.reason == "JOURNAL_FULL"
    assert raised.value.retry_after_s is not None
    with pytest.raises(CapacityError) as blob:
        daemon.client.write_blob(b"x" * 100_000)
    assert blob.value.reason == "JOURNAL_FULL"
    done = daemon.command("run", "-p", "base", "--", "true")
    assert done.returncode == 125
    assert b"[JOURNAL_FULL]" in done.stderr
    assert [call.call_id for call in daemon.client.list_calls()] == before


def require_unread(daemon: Daemon, call_id: str) -> None:
    """See that nobody reads a record while that cannot be put on record itself."""
    client = daemon.client
    reads: tuple[Callable[[], object], ...] = (
        lambda: client.record(call_id),
        lambda: list(client.read_output(call_id, Stream.STDOUT)),
        lambda: client.receipt(call_id),
        lambda: list(client.records()),
        lambda: list(client.events()),
    )
    for read in reads:
        with pytest.raises(AuditUnavailable) as raised:
            read()
        assert raised.value.reason == "RECORD_FULL"
    assert client.get(call_id).call_id == call_id


def require_service(daemon: Daemon) -> None:
    wait_for(daemon.serving)
    assert daemon.client.run(["echo", "back"], profile="base").stdout == b"back\n"


def test_filled_by_somebody_else(disk: Path, tmp_path: Path) -> None:
    with daemon_on(disk, tmp_path / "daemon") as daemon:
        for _ in range(rounds(2)):
            quiet, told, killed = (begin(daemon, "cat") for _ in range(3))
            silent = [begin(daemon, "cat") for _ in range(10)]
            told.write_stdin(b"before\n")
            until(told, is_output)
            with filled(disk):
                require_refusal(daemon)
                quiet.close_stdin()
                assert end_of(quiet).outcome == Exited(code=0)
                killed.cancel()
                assert end_of(killed).outcome == Stopped(by="owner", reason="SIGNAL")
                for execution in silent:
                    execution.close_stdin()
                    assert end_of(execution).outcome == Exited(code=0)
                assert not daemon.serving()
                require_unread(daemon, quiet.call_id)
            require_service(daemon)
            recorded = daemon.client.record(quiet.call_id)
            assert recorded.entries[-1].kind == "outcome"
            read = b"".join(daemon.client.read_output(told.call_id, Stream.STDOUT))
            assert read == b"before\n"
            told.close_stdin()
            assert end_of(told).outcome == Exited(code=0)


def test_output_that_does_not_fit_ends_the_call(disk: Path, tmp_path: Path) -> None:
    """What is on record is a beginning of the output, and the outcome says why it is no more."""
    with daemon_on(disk, tmp_path / "daemon") as daemon:
        talker = begin(daemon, "sh", "-c", "echo first; cat; exec head -c 30000000 /dev/urandom",
                       profile="flood")  # fmt: skip
        until(talker, is_output)
        with filled(disk):
            require_refusal(daemon)
            talker.close_stdin()
            finished = end_of(talker)
            assert isinstance(finished.outcome, Failed)
            assert finished.outcome.reason == "RECORD_FULL"
            (stdout,) = [s for s in finished.streams if s.stream is Stream.STDOUT]
            assert stdout.truncated
            require_unread(daemon, talker.call_id)
        require_service(daemon)
        recorded = b"".join(daemon.client.read_output(talker.call_id, Stream.STDOUT))
        assert recorded.startswith(b"first\n")
        assert len(recorded) == stdout.stored_bytes


def test_filled_by_a_call(disk: Path, tmp_path: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    with daemon_on(disk, tmp_path / "daemon") as daemon:
        others = [begin(daemon, "cat") for _ in range(3)]
        flood = begin(daemon, "head", "-c", str(FLOOD_BYTES), "/dev/urandom", profile="flood")
        flood.close()
        finished = end_of(daemon.client.attach(flood.call_id))
        assert isinstance(finished.outcome, Failed)
        assert finished.outcome.reason == "RECORD_FULL"
        (stdout,) = [s for s in finished.streams if s.stream is Stream.STDOUT]
        assert 0 < stdout.stored_bytes < DISK_BYTES
        assert stdout.truncated
        require_refusal(daemon)
        for execution in others:
            execution.close_stdin()
            assert end_of(execution).outcome == Exited(code=0)
        ballast.unlink()
        require_service(daemon)
        recorded = b"".join(daemon.client.read_output(flood.call_id, Stream.STDOUT))
        assert len(recorded) == stdout.stored_bytes
        assert Digest.of(recorded) != stdout.digest


def test_a_daemon_that_starts_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """What a former daemon left open is closed from the reserve; service waits for space."""
    with daemon_on(disk, tmp_path / "daemon") as daemon:
        left = begin(daemon, "sleep", "50")
        left.close()
        daemon.kill()
        fill(disk / "filler")
        daemon.start(wait=False)
        wait_for(lambda: daemon.answers() or not daemon.alive)
        assert daemon.alive, daemon.tail()
        require_refusal(daemon)
        (disk / "filler").unlink()
        require_service(daemon)
        finished = daemon.client.get(left.call_id).finished
        assert finished is not None
        assert isinstance(finished.outcome, Interrupted)
