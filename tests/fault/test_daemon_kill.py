"""SIGKILL for the daemon at random moments under load: the next one leaves nothing of it behind,
and the record is whole."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.checkpoints import Receipt
from supervisor.audit.entry import Kind
from supervisor.audit.redaction.rules import shipped
from supervisor.audit.verify import verify
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.call.events import DAEMON_DIED
from supervisor.call.outcome import Interrupted
from supervisor.call.types import Stream
from tests.support.daemon import Daemon
from tests.support.images import make_root
from tests.support.load import Load, Seen, job
from tests.support.plain import where
from tests.support.profiles import with_profiles
from tests.support.records import IDENTITY, RECIPIENT
from tests.support.rounds import SOAK, rounds

log = logging.getLogger(__name__)
pytestmark = pytest.mark.root

KILLS = 20 if SOAK else 12
ENCRYPTED_KILLS = 20 if SOAK else 4
IN_AN_IMAGE = [job("/bin/hello", profile="image"), job("/bin/hello", "-", profile="image")]
LOAD_S_MAX = 0.8
CONTENTS = (b"typed\n" * 3, b"line 1\nline 2\n", b"1" * 500, b"2" * 500)
"""What goes through the calls of the load."""

HELD_BYTES_MAX = shipped().longest + 1
START_UP_S_MAX = 0.5
START_UP_SHARE = 0.35
"""How often the daemon that cleans up is killed as well, while it does."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_while_content_is_encrypted(tmp_path: Path) -> None:
    """The same; and nothing of the content is on disk in plain, whatever was cut off where."""
    figures: Counter[str] = Counter()
    seen: list[Seen] = []
    identity = tmp_path / "identity"
    identity.touch(mode=0o600)
    identity.write_text(IDENTITY + "\n")
    record = {"recipients": [RECIPIENT], "identity": {"file": str(identity)}}
    with Daemon(tmp_path, config={"record": record}) as daemon:
        daemon.start()
        for _ in range(ENCRYPTED_KILLS):
            seen += one_round(daemon, figures)
            daemon.kill()
            assert where(daemon.state, *CONTENTS) == []
            daemon.start()
        check_calls_seen(daemon, seen, figures)
        assert daemon.stop() == 0, daemon.tail()
        check_record(daemon, seen, figures)
    assert figures["interrupted"] > 0
    assert figures["finished"] > 0
    assert len(list((daemon.state / "keys").iterdir())) >= figures["calls"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("campaign", range(rounds(1)))
def test_kill_at_random_moments(tmp_path: Path, campaign: int) -> None:
    figures: Counter[str] = Counter()
    seen: list[Seen] = []
    root = make_root(tmp_path)
    config = with_profiles(tmp_path / "profiles", image=f"image: dir:{root}")
    with Daemon(tmp_path, config=config) as daemon:
        daemon.start()
        for _ in range(KILLS):
            seen += one_round(daemon, figures)
        assert where(daemon.state, *CONTENTS)  # the control of what looks for plain content
        check_calls_seen(daemon, seen, figures)
        assert daemon.stop() == 0, daemon.tail()
        assert daemon.leftovers() == []
        check_record(daemon, seen, figures)
    # The load must have been one, or this test proves nothing.
    assert figures["calls"] > KILLS
    assert figures["interrupted"] > 0
    assert figures["finished"] > 0
    log.info("campaign %s: %s", campaign, dict(sorted(figures.items())))


def one_round(daemon: Daemon, figures: Counter[str]) -> list[Seen]:
    """Load, kill, sometimes kill again while it starts, start, and look for what is left."""
    with Load(daemon.address, more=IN_AN_IMAGE) as load:
        time.sleep(random.uniform(0, LOAD_S_MAX))
        daemon.kill()
        load.stop()
        figures["kills"] += 1
        while random.random() < START_UP_SHARE:
            daemon.start(wait=False)
            time.sleep(random.uniform(0, START_UP_S_MAX))
            daemon.kill()
            figures["kills in start-up"] += 1
        begun = time.monotonic()
        daemon.start()
        figures["slowest start, ms"] = max(
            figures["slowest start, ms"], round((time.monotonic() - begun) * 1000)
        )
        load.join()
    left = list(beyond_the_daemon(daemon))
    assert not left, "\n".join([*left, daemon.tail()])
    return load.seen


def beyond_the_daemon(daemon: Daemon) -> Iterator[str]:
    """Name what is there of former daemons and their calls while this one idles."""
    yield from daemon.leftovers_of_calls()
    (instance,) = (path.parent for path in daemon.runtime.glob("*/bundles"))
    # The daemon that runs now has made its root folders for calls that came after its start.
    for name in ("bundles", "runc"):
        yield from (f"runtime file {path}" for path in (instance / name).iterdir())
    if uids_are_leased(daemon.runtime / "uids.lock"):
        yield "a uid lease"


def uids_are_leased(path: Path) -> bool:
    """Say whether anybody holds a lock on any part of the file of leases."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(fd)
    return False


def check_record(daemon: Daemon, seen: list[Seen], figures: Counter[str]) -> None:
    """Every INTENT has one OUTCOME, the log verifies, and what was told is in it."""
    expect = {one.call_id: one.finished.record for one in seen if one.finished is not None}
    heads = [
        (one.call_id, Receipt.parse(one.finished.receipt).checkpoint)
        for one in seen
        if one.finished is not None and one.finished.receipt
    ]
    report = verify(daemon.state, expect=expect, heads=heads)
    assert report.consistent == len(heads)
    assert report.ok, "\n".join(map(str, report.problems))
    assert not report.live
    assert report.open_calls == ()
    problems: list[Problem] = []
    counts = {Kind.INTENT: Counter[str](), Kind.OUTCOME: Counter[str]()}
    for entry in LogCheck(daemon.state / "log", problems.append, live=False).entries():
        if entry.kind in counts:
            counts[Kind(entry.kind)][entry.call_id] += 1
    assert not problems
    assert set(counts[Kind.INTENT].values()) == {1}
    assert counts[Kind.INTENT] == counts[Kind.OUTCOME]
    assert {one.call_id for one in seen} <= set(counts[Kind.INTENT])
    figures["calls"] = len(counts[Kind.INTENT])
    figures["entries"], figures["receipts"] = report.entries, len(heads)


def check_calls_seen(daemon: Daemon, seen: list[Seen], figures: Counter[str]) -> None:
    """What a client got is on record, byte for byte, and in the place that it was told; but for an
    end of it that might have been the beginning of a secret, which is counted."""
    by_call = {call.call_id: call for call in daemon.client.records()}
    missing: Counter[str] = Counter()
    for one in seen:
        for stream in (Stream.STDOUT, Stream.STDERR):
            told = [(offset, data) for name, offset, data in one.outputs if name is stream]
            if not told:
                continue
            recorded = b"".join(daemon.client.read_output(one.call_id, stream))
            for offset, data in told:
                kept = recorded[offset : offset + len(data)]
                assert data.startswith(kept), one.call_id
                missing[one.call_id] += len(data) - len(kept)
        assert one.sequences == sorted(one.sequences)
        assert by_call[one.call_id].finished is not None
        if one.finished is not None:
            # A list has no digests of encrypted calls.
            assert daemon.client.get(one.call_id).finished == one.finished
            figures["finished"] += 1
    for call_id, count in missing.items():
        if count:
            bodies = [one.body()["body"] for one in daemon.client.record(call_id).entries]
            held = [one["count"] for one in bodies if one.get("reason") == DAEMON_DIED]
            assert count <= min(sum(held), 2 * HELD_BYTES_MAX), call_id
            figures["held back, bytes"] += count
    figures["interrupted"] = sum(
        isinstance(call.finished.outcome, Interrupted) for call in by_call.values() if call.finished
    )
