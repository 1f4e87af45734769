"""A daemon whose disk fails: no program runs that is not on record, everybody is told why, and the
next daemon takes up a record that is whole."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.audit.checkpoints import Receipt
from supervisor.audit.entry import Kind
from supervisor.audit.space import make_folder
from supervisor.audit.verify import verify
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.call.outcome import Interrupted
from supervisor.errors import (
    AuditUnavailable,
    CapacityError,
    ShuttingDown,
    StockadeError,
    Unreachable,
)
from tests.support.daemon import Daemon
from tests.support.faultdisk import SHORT, SLOW
from tests.support.faultfs import FaultFs, fault_fs
from tests.support.following import end_of, is_output, is_started, until, wait_for
from tests.support.load import Load, Seen
from tests.support.profiles import with_profiles
from tests.support.rounds import SOAK, rounds

pytestmark = pytest.mark.root
log = logging.getLogger(__name__)

EXIT_RECORD = 7
LOG = "/state/log/*.seg"
LOAD_S_MAX = 0.8
FAULTS = {
    "power": (),
    "no space": (("write", "ENOSPC"), ("allocate", "ENOSPC"), ("create", "ENOSPC")),
    "write": (("write", "EIO"), ("create", "EIO"), ("rename", "EIO")),
    "fsync": (("sync", "EIO"),),
    "short and slow": (("write", SHORT), ("sync", SLOW)),
}
KINDS = tuple(FAULTS) if SOAK else ("power", "fsync")
PATHS = (LOG, "/state/blobs/*", "/state/tlog/*", "/state/index.db*")


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon, its disk, and a place outside of both by which a program shows that it ran."""

    daemon: Daemon
    fs: FaultFs
    door: Path

    def knock(self) -> None:
        """Run a program that opens a pipe of the host.

        Raises:
            StockadeError: as the daemon says.
        """
        script = f"echo > {self.door}"
        self.daemon.client.run(["sh", "-c", script], profile="door")

    def knocked(self) -> bool:
        """Say whether a program has, since this was asked last."""
        fd = os.open(self.door, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return bool(os.read(fd, 1))
        except BlockingIOError:
            return False
        finally:
            os.close(fd)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        fs = stack.enter_context(fault_fs(tmp_path))
        make_folder(fs.path / "state")
        doors = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-test-", dir="/opt"))
        )
        doors.chmod(0o755)
        door = doors / "pipe"
        os.mkfifo(door)
        door.chmod(0o666)
        # Somebody holds it open, or whoever writes waits.
        stack.callback(os.close, os.open(door, os.O_RDWR))
        folder = tmp_path / "daemon"
        folder.mkdir()
        (folder / "state").symlink_to(fs.path / "state")
        reads = f"files: {{read: [{{path: {doors}, why: A test.}}]}}"
        config = with_profiles(folder / "profiles", door=reads)
        with Daemon(folder, config=config) as daemon:
            daemon.start()
            yield Site(daemon, fs, door)
            if daemon.alive:
                assert daemon.stop() == 0, daemon.tail()
            assert daemon.leftovers() == []


def require_whole(site: Site, seen: Sequence[Seen] = ()) -> None:
    expect = {one.call_id: one.finished.record for one in seen if one.finished is not None}
    heads = [
        (one.call_id, Receipt.parse(one.finished.receipt).checkpoint)
        for one in seen
        if one.finished is not None and one.finished.receipt
    ]
    report = verify(site.daemon.state, expect=expect, heads=heads)
    assert report.ok, "\n".join(map(str, report.problems[:5]))
    if not site.daemon.alive:
        assert report.open_calls == ()
    counts = {Kind.INTENT: Counter[str](), Kind.OUTCOME: Counter[str]()}
    problems: list[Problem] = []
    for entry in LogCheck(site.daemon.state / "log", problems.append, live=False).entries():
        if entry.kind in counts:
            counts[Kind(entry.kind)][entry.call_id] += 1
    assert not problems
    assert set(counts[Kind.INTENT].values()) <= {1}
    assert counts[Kind.INTENT] == counts[Kind.OUTCOME]
    assert {one.call_id for one in seen} <= set(counts[Kind.INTENT])


@pytest.mark.parametrize(("operation", "does"), [("sync", "EIO"), ("write", "EIO")])
def test_a_disk_that_fails_ends_the_daemon(site: Site, operation: str, does: str) -> None:
    daemon = site.daemon
    site.knock()
    assert site.knocked()  # the control: a call that is on record does run
    held = daemon.client.execute(["sh", "-c", "echo here; cat"], profile="base", stdin_open=True)
    until(held, is_output)
    site.fs.fault(operation, does, path=LOG)
    with pytest.raises((AuditUnavailable, ShuttingDown, Unreachable)):
        site.knock()  # Another entry may have met the fault first: the daemon is stopping then.
    assert daemon.wait_ended() == EXIT_RECORD
    assert not site.knocked(), "a program ran that is not on record"
    said = daemon.log.read_text()
    (why,) = [line for line in said.splitlines() if "CRITICAL" in line]
    assert "the record can no longer be written, stopping" in why
    assert os.strerror(errno.EIO) in why
    assert daemon.leftovers_of_calls() == []
    site.fs.heal()
    daemon.start()
    finished = daemon.client.get(held.call_id).finished
    assert finished is not None
    assert isinstance(finished.outcome, Interrupted)
    site.knock()
    assert site.knocked()
    assert daemon.stop() == 0, daemon.tail()
    # What the first daemon could not sync is on the disk by now.
    site.fs.cut_power(share=0.0)
    require_whole(site)


def test_a_daemon_does_not_start_on_a_disk_that_fails(site: Site) -> None:
    daemon = site.daemon
    site.knock()
    assert daemon.stop() == 0
    for operation in ("sync", "write", "create"):
        site.fs.fault(operation, "EIO")
        daemon.start(wait=False)
        assert daemon.wait_ended() == EXIT_RECORD, daemon.tail()
        assert "Traceback" not in daemon.tail()
        site.fs.heal()
    daemon.start()
    site.knock()


def test_a_disk_that_breaks_the_promise_of_its_reserve(site: Site) -> None:
    """As one that copies on write can: not even the outcome of a running call fits."""
    daemon = site.daemon
    site.knock()
    assert site.knocked()  # the control, after which all that such a call needs is there
    leave = site.door.with_name("leave")
    os.mkfifo(leave)
    leave.chmod(0o666)
    out = os.open(leave, os.O_RDWR)
    held = daemon.client.execute(["sh", "-c", f"read word < {leave}"], profile="door")
    until(held, is_started)
    site.fs.fault("write", "ENOSPC", path="/state/*")
    site.fs.fault("allocate", "ENOSPC", path="/state/*")
    os.write(out, b"\n")
    os.close(out)
    with pytest.raises(StockadeError) as ended:
        end_of(held)
    assert ended.value.reason in ("JOURNAL_FULL", "RECORD_FULL")
    with pytest.raises((CapacityError, AuditUnavailable)) as caught:
        site.knock()
    assert caught.value.reason in ("JOURNAL_FULL", "RECORD_FULL")
    wait_for(lambda: not daemon.serving())
    assert "NOT_SERVING: JOURNAL_FULL" in daemon.log.read_text()
    assert not site.knocked(), "a program ran that is not on record"
    site.fs.heal()
    wait_for(daemon.serving)
    site.knock()
    assert site.knocked()
    # The outcome that could not be written is the next daemon's to write.
    assert daemon.stop() == 0
    daemon.start()
    finished = daemon.client.get(held.call_id).finished
    assert finished is not None
    assert isinstance(finished.outcome, Interrupted)
    assert daemon.stop() == 0
    require_whole(site)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_rounds(site: Site, kind: str) -> None:
    figures: Counter[str] = Counter()
    seen: list[Seen] = []
    for _ in range(rounds(1)):
        seed = random.randrange(1 << 30)
        log.info("%s: seed %d", kind, seed)
        seen += one_round(site, kind, random.Random(seed), figures)
        require_whole(site, seen)
    figures["seen"], figures["finished"] = len(seen), sum(one.finished is not None for one in seen)
    log.info("%s: %s", kind, dict(sorted(figures.items())))
    if FAULTS[kind]:
        assert figures["injected"] > 0


def one_round(site: Site, kind: str, rng: random.Random, figures: Counter[str]) -> list[Seen]:
    """Load, fail, kill, lose the power or not, and start again; nothing is open in the end."""
    daemon = site.daemon
    with Load(daemon.address, threads=4, patient=0) as load:
        for operation, does in FAULTS[kind]:
            first = not figures["rounds"]
            path, after = (LOG, 2) if first else (rng.choice(PATHS), rng.randrange(20))
            times = rng.choice([1, 3, -1]) if does != SLOW else 5
            site.fs.fault(operation, does, path=path, after=after, times=times)
        wait_for(lambda: bool(load.seen or load.reasons))
        if FAULTS[kind] and not figures["rounds"]:
            wait_for(lambda: site.fs.injected() > 0)  # one round at least has a fault
        time.sleep(rng.uniform(0, LOAD_S_MAX))
        daemon.kill()
        load.join()
    figures["rounds"] += 1
    figures["injected"] += bool(site.fs.heal())
    if kind == "power" or rng.random() < 0.5:
        site.fs.cut_power(rng.randrange(1 << 30))
    daemon.start()
    assert daemon.stop() == 0, daemon.tail()
    daemon.start()
    return load.seen
