"""Everything at once, in any order: no call hangs, none is lost, and the daemon keeps nothing."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.audit.threads import INTAKE_THREADS, RECORD_THREADS
from supervisor.audit.verify import verify
from supervisor.call.state import State
from supervisor.client import Supervisor
from supervisor.engine.options import EngineOptions
from supervisor.errors import StockadeError
from supervisor.sandbox.host import FILE_THREADS, OUTPUT_THREADS
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import wait_for
from tests.support.load import Load
from tests.support.rounds import rounds

pytestmark = pytest.mark.root
log = logging.getLogger(__name__)

CHURN_S = 2.0
CHURNS = 4
CALLS_AT_ONCE = 12
MEDDLERS = 3
GROWTH_MAX = 24 << 20
"""What the least of some readings may be above the first: after a churn the heap is 20 MB larger or
smaller (ten churns: 117 to 137 MB, no trend), and what is kept for good is in the least, too."""
POOLS = {
    "pump": EngineOptions().pump_threads,
    "locks and fence": 2,
    "outputs": OUTPUT_THREADS,
    "files": FILE_THREADS,
    "record": RECORD_THREADS,
    "intake": INTAKE_THREADS,
    "asyncio's own": min(32, (os.cpu_count() or 1) + 4),
}
OTHER_THREADS = 8
"""The loop, the journal, the server of metrics, and those of gRPC."""
THREADS_MAX = sum(POOLS.values()) + OTHER_THREADS
"""Pools start a thread when one is missed, so a quiet start says little about how many."""
EXPECTED = {
    # What may be said of a call that has ended, is not as far yet, or is not there.
    "CALL_CLOSED", "CALL_NOT_FOUND", "STDIN_CLOSED", "STDIN_OFFSET", "SEQUENCE_AHEAD",
    "SIGNAL_INVALID", "RECORD_NOT_FOUND", "CALLS_LIMIT", "DEADLINE_EXCEEDED", "NO_ANSWER",
}  # fmt: skip


@pytest.mark.slow
def test_churn(tmp_path: Path) -> None:
    with running_daemon(folder=tmp_path, config={"limits": {"calls": CALLS_AT_ONCE}}) as daemon:
        warm_up(daemon)
        before = held_by(daemon.pid)
        reasons: Counter[str] = Counter()
        loads, memory = [], []
        for _ in range(CHURNS):
            loads.append(churn(daemon, reasons))
            memory.append(held_by(daemon.pid)["memory"])
        seen_all = [seen for load in loads for seen in load.seen]
        log.info("%d calls, %s", len(seen_all), dict(reasons))
        assert set(reasons) <= EXPECTED, reasons
        assert len(seen_all) > 20
        for seen in seen_all:
            call = daemon.client.get(seen.call_id)
            assert call.state is State.CLOSED
            assert call.finished is not None
            assert seen.finished in (None, call.finished)
        assert daemon.leftovers_of_calls() == []
        # The rings of events stay: two descriptors for each call that lived at once.
        wait_for(lambda: held_by(daemon.pid)["fds"] <= before["fds"] + 2 * CALLS_AT_ONCE)
        after = held_by(daemon.pid)
        log.info("before %s, after %s, memory %s", before, after, memory)
        assert after["threads"] <= THREADS_MAX
        assert min(memory[1:]) < memory[0] + GROWTH_MAX
        assert "bug" not in daemon.log.read_text().lower(), daemon.tail()
        assert "Traceback" not in daemon.log.read_text(), daemon.tail()
    expect = {one.call_id: one.finished.record for one in seen_all if one.finished}
    report = verify(tmp_path / "state", expect=expect)
    assert report.ok, "\n".join(map(str, report.problems))
    assert report.open_calls == ()


def churn(daemon: Daemon, reasons: Counter[str]) -> Load:
    """Run calls and meddle with them for a while, and give what was seen of them."""
    with Load(daemon.address, threads=8) as load:
        stop = threading.Event()
        meddlers = [
            threading.Thread(target=meddle, args=(daemon.address, stop, reasons))
            for _ in range(MEDDLERS)
        ]
        for meddler in meddlers:
            meddler.start()
        time.sleep(rounds(1) * CHURN_S)
        load.stop()
        stop.set()
        for meddler in meddlers:
            meddler.join(30)
            assert not meddler.is_alive(), "a client hangs"
        load.join()
    wait_for(lambda: not list(daemon.client.list_calls(live_only=True)))
    reasons.update(load.reasons)
    return load


def warm_up(daemon: Daemon) -> None:
    """Let everything be made that a daemon makes once."""
    for profile in ("base", "shell"):
        for _ in range(3):
            daemon.client.run(["true"], profile=profile, files={"a": b""}, outputs=["*"])
    list(daemon.client.list_calls())


def held_by(pid: int) -> dict[str, int]:
    """Count what a process holds: descriptors, threads, resident bytes."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(fields["Threads"]),
        "memory": int(fields["VmRSS"].split()[0]) << 10,
    }


def meddle(address: str, stop: threading.Event, reasons: Counter[str]) -> None:
    """Do to random calls, live or not, whatever a client can do."""
    with Supervisor(address, timeout=3) as client:
        while not stop.is_set():
            live = [call.call_id for call in client.list_calls(live_only=True)]
            known = [call.call_id for call in client.list_calls(limit=20)]
            if not known:
                continue
            call_id = random.choice(live * 3 + known)
            try:
                random.choice(DEEDS)(client, call_id)
            except StockadeError as error:
                reasons[error.reason] += 1


def follow_a_while(client: Supervisor, call_id: str) -> None:
    with client.attach(call_id, random.randint(0, 9)) as execution:
        for _ in range(random.randint(1, 30)):
            if next(execution, None) is None:
                return


def write(client: Supervisor, call_id: str) -> None:
    offset = random.choice([0, 10, 10, 10])
    client.write_stdin(call_id, random.randbytes(10), offset=offset, end=random.random() < 0.3)


DEEDS: list[Callable[[Supervisor, str], object]] = [
    lambda client, call_id: client.signal(call_id, random.choice([1, 2, 15, 9, 9, 17, 64])),
    follow_a_while,
    follow_a_while,
    write,
    lambda client, call_id: client.get(call_id),
    lambda client, call_id: client.record(call_id),
    lambda client, call_id: list(client.read_output(call_id, "stdout")),
]
