"""What `make bench` measures, and the goals of the design."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.call import outcome
from supervisor.call.events import Output
from supervisor.call.types import Stream
from supervisor.client import Supervisor
from tests.bench.bare import ROOT, Bare, bare
from tests.bench.figures import Figure, percentile
from tests.bench.load import alternate, rate
from tests.support.daemon import Daemon

PROFILES = [str(ROOT / "profiles"), str(Path(__file__).parent / "profiles")]
CONFIG = {"profiles": PROFILES, "limits": {"calls": 64}}
PROGRAM = ["true"]
CONCURRENCY = (1, 2, 8, 32)
COLD_ROUNDS, COLD_ROUNDS_MIN = 200, 5
RATE_S = 8.0
RATE_TURNS = 4
GROWTH_CALLS = 1000
OUTPUT_BYTES = 1 << 30
KIB, MB = 1 << 10, 1e6

COLD_RATIO_MAX = 2.0
RATE_RATIO_MIN = 0.7
OUTPUT_MB_S_MIN = 150
OUTPUT_GROWTH_MB_MAX = 67  # 64 MiB
IDLE_MB_MAX = 80
GROWTH_MB_MAX = 4

# 1 MiB again and again: random bytes, in which zstd finds nothing, or a text.
WRITER = """
import os, sys
kind, size = sys.argv[1], int(sys.argv[2])
text = open("/usr/share/common-licenses/GPL-3", "rb").read() * 32
piece = os.urandom(1 << 20) if kind == "random" else text[: 1 << 20]
for _ in range(size >> 20):
    left = memoryview(piece)
    while left:
        left = left[os.write(1, left):]
"""


@contextlib.contextmanager
def bundle(daemon: Daemon) -> Iterator[Bare]:
    """Give bare runc with the bundle of a call of `daemon`, once for each thread."""
    with bare(daemon.runtime / "bare", bundles=max(CONCURRENCY), argv=PROGRAM) as runs:
        yield runs


def idle(daemon: Daemon) -> Figure:
    """Measure the memory of a daemon that has served a health check and no call."""
    return Figure(name="daemon, idle", unit="MB", ours=resident_mb(daemon.pid), goal=IDLE_MB_MAX)


def cold(daemon: Daemon, runs: Bare, scale: float) -> Iterator[Figure]:
    """Time one call from the client to Finished, in turns with `runc run`."""
    for _ in range(3):
        call(daemon.client)
        runs.run()
    ours, theirs = alternate(
        max(COLD_ROUNDS_MIN, int(COLD_ROUNDS * scale)), lambda: call(daemon.client), runs.run
    )
    for percent, goal in ((50, COLD_RATIO_MAX), (99, None)):
        yield Figure(
            name=f"cold call, p{percent}", unit="ms", goal=goal,
            ours=percentile(ours, percent) * 1e3, bare=percentile(theirs, percent) * 1e3,
        )  # fmt: skip


def throughput(daemon: Daemon, runs: Bare, scale: float) -> Iterator[Figure]:
    """Count calls a second at each concurrency, in turns with `runc run`."""
    turns = max(1, int(RATE_TURNS * scale))
    seconds = RATE_S / RATE_TURNS * max(scale, 0.1)
    for concurrency in CONCURRENCY:
        ours = theirs = 0.0
        for _ in range(turns):
            theirs += rate(runs.run, concurrency=concurrency, seconds=seconds)
            ours += rate(lambda: call(daemon.client), concurrency=concurrency, seconds=seconds)
        yield Figure(
            name=f"calls at concurrency {concurrency}", unit="1/s",
            ours=ours / turns, bare=theirs / turns,
            goal=RATE_RATIO_MIN, at_least=True,
        )  # fmt: skip


def output(daemon: Daemon, scale: float) -> Iterator[Figure]:
    """Send 1 GiB through stdout, recorded in full, to a client that takes all of it."""
    size_bytes = max(64 << 20, int(OUTPUT_BYTES * scale) >> 20 << 20)
    for kind in ("random", "text"):
        before = resident_mb(daemon.pid)
        # Resets VmHWM, the peak, to the present (proc_pid_clear_refs(5)).
        Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
        yield Figure(
            name=f"recorded output, {kind}", unit="MB/s", goal=OUTPUT_MB_S_MIN, at_least=True,
            ours=size_bytes / MB / _stream(daemon.client, kind, size_bytes),
        )  # fmt: skip
        grown = resident_mb(daemon.pid, "VmHWM:") - before
        yield Figure(
            name=f"daemon, grown meanwhile ({kind})",
            unit="MB",
            ours=grown,
            goal=OUTPUT_GROWTH_MB_MAX,
        )


def _stream(client: Supervisor, kind: str, size_bytes: int) -> float:
    """Give the seconds between the first byte and the last; what came is checked."""
    digest, began, ended = hashlib.sha256(), 0.0, 0.0
    argv = ["python3", "writer.py", kind, str(size_bytes)]
    with client.execute(argv, profile="flood", files={"writer.py": WRITER.encode()}) as execution:
        for event in execution:
            if isinstance(event.event, Output):
                began = began or time.perf_counter()
                digest.update(event.event.data)
                ended = time.perf_counter()
        finished = client.get(execution.call_id).finished
    if finished is None or finished.outcome != outcome.Exited(code=0):
        raise RuntimeError(f"the writer failed: {finished}")
    stdout = next(stream for stream in finished.streams if stream.stream is Stream.STDOUT)
    if stdout.digest.sha256 != digest.hexdigest() or stdout.digest.size_bytes != size_bytes:
        raise RuntimeError("what came is not what was recorded")
    return ended - began


def growth(daemon: Daemon, scale: float) -> Iterator[Figure]:
    """Run a thousand calls and see what they leave in the daemon's memory."""
    calls = int(GROWTH_CALLS * scale)
    for _ in range(calls // 10):
        call(daemon.client)
    warm = resident_mb(daemon.pid)
    for _ in range(calls):
        call(daemon.client)
    after = resident_mb(daemon.pid)
    yield Figure(name=f"daemon, after {calls // 10} calls", unit="MB", ours=warm)
    yield Figure(
        name=f"daemon, grown by {calls} more", unit="MB", ours=after - warm, goal=GROWTH_MB_MAX
    )


def call(client: Supervisor) -> None:
    """Run one call to its end.

    Raises:
        OutcomeError: it did not end with 0.
    """
    client.run(PROGRAM, profile="base", check=True)


def resident_mb(pid: int, field: str = "VmRSS:") -> float:
    """Read the resident memory of a process, or its peak, VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * KIB / MB
    raise RuntimeError(f"process {pid} has no memory")
