"""What a call's way out costs: bytes a second, the delay of a connection and of a request, memory.

One client and one server, in C, on an island beside a world (`tests.support.world`): the client
runs in a call, and its bytes pass the broker, in turns with the same client on the island without
any call.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.client import Supervisor
from tests.bench import measures
from tests.bench.far import HOST, TLS_PORT
from tests.bench.figures import Figure
from tests.bench.load import alternate
from tests.bench.measures import KIB, MB
from tests.egress.servers import places
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import end_of, is_output, is_started, until
from tests.support.world import World, world

PROGRAMS = Path(__file__).parent / "programs"
HTTP_PORT, ECHO_PORT, PLAIN_PORT = 80, 7000, 9000
COLD_HOST = "n%d.cold.example.com"
DIRECT = "direct"

MOVE_TURNS = 9
MOVE_BYTES = 1 << 30
TLS_BYTES = 256 << 20
DELAY_TURNS = 9
CONNECTS = 200
REQUESTS = 2000
RATE_CONNECTS = 500
CALL_ROUNDS = 100
STAGES = ((10000, 100), (1000, 100), (10000, 100), (1000, 1000))
"""Connections of one call, so many in all and so many at a time.

The first ones fill tables and heaps that have an end, some 4 MB by the 10 000th; what grows after
them grows with the connections.
"""
STAGES_QUICK = ((600, 100), (300, 100), (300, 300))
"""To see that it works: the broker takes 600 at once, and then 300 a second (door.py)."""

SETTLE_S = 0.5

RATIO_MIN = 0.6
MB_S_MIN = 400
CONNECT_MS_MAX = 2
REQUEST_MS_MAX = 0.2
GROWTH_MB_MAX = 2


class Both:
    """A client in a call, and the same one without."""

    def __init__(self, daemon: Daemon, there: World, program: Path) -> None:
        self._client = daemon.client
        self._there = there
        self._program = program

    def confined(self, *arguments: str) -> float:
        """Run it in a call of its own; give the figure that it prints."""
        return float(self._run(["/work/stream", *arguments], "stream", self._program))

    def direct(self, *arguments: str) -> float:
        """Run it on the island."""
        return self._unconfined([self._program, *arguments])

    def confined_tls(self, *arguments: str) -> float:
        """Run the one that speaks TLS in a call of its own."""
        command = [places.PYTHON, "/work/secure.py", *arguments]
        return float(self._run(command, "secure.py", PROGRAMS / "secure.py"))

    def direct_tls(self, *arguments: str) -> float:
        """Run that on the island."""
        return self._unconfined([places.PYTHON, PROGRAMS / "secure.py", *arguments])

    def _run(self, argv: list[str], name: str, program: Path) -> bytes:
        return self._client.run(argv, profile="reaching", files={name: program}, check=True).stdout

    def _unconfined(self, argv: list[str | Path]) -> float:
        done = self._there.unconfined(argv)
        if done.returncode:
            raise RuntimeError(f"{argv}: {done.returncode}: {done.stderr!r}")
        return float(done.stdout)


def cost(scale: float) -> Iterator[Figure]:
    """Measure all of it."""
    with (
        compiled() as program,
        world("tests.bench.far", {"STREAM": str(program)}) as there,
        running_daemon(
            network=there.island, config=there.config(**measures.CONFIG)
        ) as daemon,
    ):  # fmt: skip
        there.set_names({COLD_HOST.replace("n%d", "*"): {"A": [places.SHARED[0]]}})
        both = Both(daemon, there, program)
        yield from moving(both, scale)
        yield from delays(both, scale)
        yield from _call(daemon.client, scale)
        yield from growth(daemon, program, scale)


@contextlib.contextmanager
def compiled() -> Iterator[Path]:
    """Give client and server, where everybody may run them."""
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as folder:
        Path(folder).chmod(0o755)
        binary, source = Path(folder) / "stream", PROGRAMS / "stream.c"
        options = ["-O2", "-D_GNU_SOURCE", "-pthread"]
        subprocess.run(["gcc", *options, "-o", binary, source], check=True)
        yield binary


# ---- bytes


def moving(both: Both, scale: float) -> Iterator[Figure]:
    """Move a gibibyte each way, past each way of looking at it."""
    size = str(max(32 << 20, int(MOVE_BYTES * scale)))
    for what, name in (("get", "download"), ("put", "upload")):
        for port, inspect in ((PLAIN_PORT, "none"), (HTTP_PORT, "http")):
            arguments = (what, HOST, str(port), size)
            yield from _rates(
                f"{name}, {inspect}",
                [(both.confined(*arguments), both.direct(*arguments)) for _ in _turns(scale)],
            )
    tls = (HOST, str(TLS_PORT), str(max(16 << 20, int(TLS_BYTES * scale))))
    yield from _rates(
        "download, tls", [(both.confined_tls(*tls), both.direct_tls(*tls)) for _ in _turns(scale)]
    )


def _turns(scale: float) -> range:
    return range(max(3, int(MOVE_TURNS * scale)))


def _rates(name: str, pairs: list[tuple[float, float]]) -> Iterator[Figure]:
    ours, theirs = (statistics.median(one) for one in zip(*pairs, strict=True))
    yield Figure(
        name=name, unit="MB/s", peer=DIRECT, ours=ours, bare=theirs, goal=RATIO_MIN, at_least=True
    )  # fmt: skip
    yield Figure(
        name=f"{name}, by itself", unit="MB/s", ours=ours, goal=MB_S_MIN, at_least=True
    )  # fmt: skip


# ---- delays


def delays(both: Both, scale: float) -> Iterator[Figure]:
    """Time connections to their first byte, and requests on open ones, from the client."""
    connects, requests = (str(max(20, int(count * scale))) for count in (CONNECTS, REQUESTS))
    for name, goal, arguments in (
        ("connect, none", CONNECT_MS_MAX, ("connect", HOST, str(ECHO_PORT), connects)),
        ("connect, http", CONNECT_MS_MAX, ("first", HOST, str(HTTP_PORT), connects)),
        # No goal: three questions for the address are in it.
        ("connect, a new name", None, ("connect", COLD_HOST, str(ECHO_PORT), connects)),
        ("request, none", REQUEST_MS_MAX, ("ping", HOST, str(ECHO_PORT), requests)),
        ("request, http", REQUEST_MS_MAX, ("request", HOST, str(HTTP_PORT), requests)),
    ):
        turns = range(max(3, int(DELAY_TURNS * scale)))
        pairs = [(both.confined(*arguments), both.direct(*arguments)) for _ in turns]
        ours, theirs = (statistics.median(one) / 1e3 for one in zip(*pairs, strict=True))
        yield Figure(name=f"{name}, p50", unit="ms", peer=DIRECT, ours=ours, bare=theirs)
        yield Figure(name=f"the broker, a {name}", unit="ms", ours=ours - theirs, goal=goal)
    # The broker takes 600 at once, and then 300 a second: see door.py.
    arguments = ("rate", HOST, str(ECHO_PORT), str(max(200, int(RATE_CONNECTS * scale))))
    pairs = [(both.confined(*arguments), both.direct(*arguments)) for _ in _turns(scale)]
    ours, theirs = (statistics.median(one) for one in zip(*pairs, strict=True))
    yield Figure(
        name="connections, one after another", unit="1/s", peer=DIRECT, ours=ours, bare=theirs
    )  # fmt: skip


def _call(client: Supervisor, scale: float) -> Iterator[Figure]:
    """Time a call of `true` that may reach something, in turns with one that may not."""

    def reaching() -> None:
        client.run(measures.PROGRAM, profile="reaching", check=True)

    for _ in range(3):
        reaching()
        measures.call(client)
    ours, theirs = alternate(
        max(measures.COLD_ROUNDS_MIN, int(CALL_ROUNDS * scale)),
        reaching,
        lambda: measures.call(client),
    )
    yield Figure(
        name="cold call with egress, p50", unit="ms", peer="no egress",
        ours=statistics.median(ours) * 1e3, bare=statistics.median(theirs) * 1e3,
    )  # fmt: skip
    added = statistics.median(with_ - without for with_, without in zip(ours, theirs, strict=True))
    yield Figure(name="egress, a call", unit="ms", ours=added * 1e3)


# ---- growth


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a broker and its daemon hold at one moment."""

    broker_mb: float
    daemon_mb: float
    descriptors: int


def growth(daemon: Daemon, program: Path, scale: float) -> Iterator[Figure]:
    """Make many connections in one call and see what they leave in its broker and the daemon."""
    stages = STAGES if scale >= 1 else STAGES_QUICK
    argv = ["/work/stream", "flows", HOST, str(ECHO_PORT)]
    argv += [f"{total}:{at_once}" for total, at_once in stages]
    seen: list[tuple[Held, Held]] = []
    with daemon.client.execute(
        argv, profile="reaching", files={"stream": program}, stdin_open=True
    ) as execution:
        until(execution, is_started)
        broker = _broker(daemon.pid)
        empty = _settled(daemon.pid, broker)
        for _ in stages:
            pair = []
            for _ in ("open", "closed"):
                until(execution, is_output)
                pair.append(_settled(daemon.pid, broker))
                execution.write_stdin(b"\n")
            seen.append((pair[0], pair[1]))
        end_of(execution)
    yield Figure(name="a broker, idle", unit="MB", ours=empty.broker_mb)
    warm, first = seen[0][1], stages[0][0]
    yield from _grown(f"by the first {first} flows", empty, warm, goal=None)
    total = 0
    for (more, _), (_, closed) in zip(stages[1:-1], seen[1:-1], strict=True):
        total += more
        yield from _grown(f"by {total} flows after them", warm, closed)
    (held, at_once), (opened, closed) = stages[-1], seen[-1]
    yield from _grown(f"after {held} at once", warm, closed, goal=None)
    each = (opened.broker_mb - warm.broker_mb) * MB / KIB / at_once
    yield Figure(name=f"a broker, each of {at_once} open flows", unit="KiB", ours=each)


def _grown(
    name: str, warm: Held, now: Held, goal: float | None = GROWTH_MB_MAX
) -> Iterator[Figure]:  # fmt: skip
    """Say what has grown since `warm`."""
    for what, grown in (
        ("broker", now.broker_mb - warm.broker_mb), ("daemon", now.daemon_mb - warm.daemon_mb)
    ):  # fmt: skip
        yield Figure(name=f"{what}, grown {name}", unit="MB", ours=grown, goal=goal)
    more = now.descriptors - warm.descriptors
    yield Figure(name=f"broker's descriptors, more {name}", unit="", ours=more, goal=0)


def _settled(daemon: int, broker: int) -> Held:
    """Look once the broker opens and closes nothing any more."""
    before, now = -1, _descriptors(broker)
    while before != now:
        time.sleep(SETTLE_S)
        before, now = now, _descriptors(broker)
    return Held(
        broker_mb=measures.resident_mb(broker),
        daemon_mb=measures.resident_mb(daemon),
        descriptors=now,
    )


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _broker(daemon: int) -> int:
    """Find the only broker: the zygote's child, which is the daemon's."""
    parents = dict(_parents())
    for pid, parent in parents.items():
        if parents.get(parent) == daemon and b"egress" in _command(parent):
            return pid
    raise RuntimeError(f"the daemon {daemon} has no broker")


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc_pid_stat(5): the name, in parentheses, may hold anything.
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
