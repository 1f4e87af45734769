"""What the fence costs: its start, a call, a connect, and everybody else's system calls.

All but the start are measured with and without it, in turns: `unfenced.py` is a daemon that has
none.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import measures
from tests.bench.figures import Figure, percentile
from tests.bench.load import alternate
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import is_started, until

PROGRAM = Path(__file__).parent / "programs" / "calls.c"
UNFENCED = (sys.executable, "-m", "tests.bench.unfenced")
CALL_ROUNDS = 200
CONNECT_ROUNDS = 20
CONNECTS = 200_000
HOST_TURNS = 10
HOST_CALLS = 3_000_000

LOAD_TURNS = 10
LOAD_MS_MAX = 100
LOAD_MB_MAX = 20
CALL_MS_MAX = 3
CONNECT_US_MAX = 5


def cost(scale: float) -> Iterator[Figure]:
    """Measure all four."""
    yield from _loading(scale)
    with _compiled() as program, contextlib.ExitStack() as stack:
        fenced = stack.enter_context(running_daemon(config=measures.CONFIG))
        unfenced = stack.enter_context(running_daemon(config=measures.CONFIG, program=UNFENCED))
        yield from _call(fenced, unfenced, scale)
        yield from _connect(fenced, unfenced, program, scale)
    with _compiled() as program:
        yield from _host(program, scale)


def _loading(scale: float) -> Iterator[Figure]:
    command = [sys.executable, "-m", "tests.bench.loading"]
    runs = [
        json.loads(subprocess.check_output(command)) for _ in range(max(2, int(LOAD_TURNS * scale)))
    ]
    times, sizes = (statistics.median(run[name] for run in runs) for name in ("ms", "mb"))
    yield Figure(name="loading all probes", unit="ms", ours=times, goal=LOAD_MS_MAX)
    yield Figure(name="probes and libbpf in the daemon", unit="MB", ours=sizes, goal=LOAD_MB_MAX)


def _call(fenced: Daemon, unfenced: Daemon, scale: float) -> Iterator[Figure]:
    for daemon in (fenced, unfenced) * 3:
        measures.call(daemon.client)
    ours, theirs = alternate(
        max(measures.COLD_ROUNDS_MIN, int(CALL_ROUNDS * scale)),
        lambda: measures.call(fenced.client),
        lambda: measures.call(unfenced.client),
    )
    yield Figure(
        name="cold call, p50", unit="ms", peer="no fence",
        ours=percentile(ours, 50) * 1e3, bare=percentile(theirs, 50) * 1e3,
    )  # fmt: skip
    # Call by call: two neighbours in time have met the same host.
    added = statistics.median(with_ - without for with_, without in zip(ours, theirs, strict=True))
    yield Figure(name="the fence, a call", unit="ms", ours=added * 1e3, goal=CALL_MS_MAX)


def _connect(
    fenced: Daemon, unfenced: Daemon, program: Path, scale: float
) -> Iterator[Figure]:  # fmt: skip
    count = str(int(CONNECTS * max(scale, 0.1)))

    def connects(daemon: Daemon) -> float:
        done = daemon.client.run(
            ["/work/calls", "connect", count],
            profile="connects", files={"calls": program}, check=True,
        )  # fmt: skip
        return float(done.stdout)

    turns = max(3, int(CONNECT_ROUNDS * scale))
    pairs = [(connects(fenced), connects(unfenced)) for _ in range(turns)]
    ours, theirs = (statistics.median(one) for one in zip(*pairs, strict=True))
    yield Figure(
        name="connect", unit="µs", peer="no fence", ours=ours / 1e3, bare=theirs / 1e3
    )  # fmt: skip
    yield Figure(
        name="the fence, a connect", unit="µs", ours=(ours - theirs) / 1e3, goal=CONNECT_US_MAX
    )


def _host(program: Path, scale: float) -> Iterator[Figure]:
    """Time a system call of a process that is nobody's call, while a daemon waits for work."""
    count = str(int(HOST_CALLS * max(scale, 0.1)))

    def getppid() -> float:
        return float(subprocess.check_output([program, "getppid", count]))

    ours, watched, theirs = [], [], []
    for _ in range(max(2, int(HOST_TURNS * scale))):
        with running_daemon(config=measures.CONFIG) as daemon:
            ours.append(getppid())
            with daemon.client.execute(["sleep", "60"], profile="observing") as execution:
                until(execution, is_started)
                watched.append(getppid())
                execution.cancel()
        theirs.append(getppid())
    yield Figure(
        name="a host's system call", unit="ns", peer="no daemon",
        ours=statistics.median(ours), bare=statistics.median(theirs),
    )  # fmt: skip
    yield Figure(
        name="the same, while a call is observed", unit="ns", peer="no daemon",
        ours=statistics.median(watched), bare=statistics.median(theirs),
    )  # fmt: skip
    spread = statistics.stdev(theirs) / statistics.median(theirs)
    yield Figure(name="its noise without a daemon", unit="%", ours=spread * 100)


@contextlib.contextmanager
def _compiled() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "calls"
        subprocess.run(["gcc", "-static", "-O2", "-o", binary, PROGRAM], check=True)
        yield binary
