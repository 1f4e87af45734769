"""What sinks take, and what they take from calls: a log of many denials goes into a file, and into
rsyslog over TLS, while ten calls a second run. Events have one or two lines of OCSF each.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from supervisor.audit.store import Store
from supervisor.client import Supervisor
from supervisor.linux import cgroup, idle
from tests.bench import measures
from tests.bench.figures import Figure, percentile
from tests.bench.record import fill
from tests.support.daemon import Daemon
from tests.support.rsyslog import rsyslog
from tests.unit.export.sinks.servers import NAME, Certificates

ENTRIES, ENTRIES_OF_CALL = 400_000, 10_000
CALLS_A_SECOND, CALLS_MIN = 10, 50
PORT = 6514
QUEUE = "FixedArray"
"""As rsyslog has it of its own accord."""
GOALS = {"file": 50_000, "rsyslog over TLS": 20_000}
P50_RATIO_MAX = 1.1
COME_S = 300.0


def cost(scale: float) -> Iterator[Figure]:
    """Measure both."""
    for name, goal in GOALS.items():
        with tempfile.TemporaryDirectory(prefix="stockade-bench-", dir=Path.cwd()) as folder:
            yield from _measure(Path(folder), name, goal, max(20_000, int(ENTRIES * scale)))


def _measure(folder: Path, name: str, goal: int, entries: int) -> Iterator[Figure]:
    asyncio.run(_write(folder / "state", entries))
    with _network() as network, _receiver(folder, name, network) as (sink, lines):
        config = {**measures.CONFIG, "sinks": {"bench": sink}}
        with Daemon(folder, config=config, network=network) as daemon:
            daemon.start()
            began = time.perf_counter()
            beside: list[float] = []
            while _cursor(daemon) < entries:
                beside.append(_paced(daemon.client))
                if time.perf_counter() - began > COME_S:
                    raise RuntimeError(
                        f"{name}: {_cursor(daemon)} of {entries} came\n{daemon.tail()}"
                    )
            took_s = time.perf_counter() - began
            alone = [_paced(daemon.client) for _ in range(max(CALLS_MIN, len(beside)))]
            with lines.open("rb") as file:
                came = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
            daemon.stop()
    yield Figure(name=f"events into {name}, beside calls", unit="1/s", ours=came / took_s,
                 goal=goal, at_least=True)  # fmt: skip
    yield Figure(
        name=f"call beside events into {name}, p50", unit="ms", ours=percentile(beside, 50) * 1e3,
        bare=percentile(alone, 50) * 1e3, peer="the same, no events", goal=P50_RATIO_MAX,
    )  # fmt: skip


async def _write(state: Path, entries: int) -> None:
    store = Store.open(state)
    await fill(store, entries, each=ENTRIES_OF_CALL)
    await store.close()


def _paced(client: Supervisor) -> float:
    """Run a call, and wait until it is time for the next; give the seconds that it took."""
    began = time.perf_counter()
    measures.call(client)
    took_s = time.perf_counter() - began
    time.sleep(max(0.0, 1 / CALLS_A_SECOND - took_s))
    return took_s


def _cursor(daemon: Daemon) -> int:
    path = daemon.state / "cursors" / "bench"
    return int(path.read_text().splitlines()[1]) if path.exists() else 0


@contextlib.contextmanager
def _network() -> Iterator[str]:
    """Give a network namespace with a loopback of its own and nothing else."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep inf"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            yield f"/proc/{holder.pid}/ns/net"
        finally:
            holder.kill()


@contextlib.contextmanager
def _receiver(folder: Path, name: str, network: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """Give the sink's configuration, and the file that gets a line for each event."""
    lines = folder / "received"
    if name == "file":
        yield {"type": "file", "path": str(lines)}, lines
        return
    certificates = Certificates(folder)
    there = rsyslog(
        folder, "tls", ca=certificates.ca, chain=certificates.chain(), port=PORT, queue=QUEUE
    )
    with _started(["nsenter", f"--net={network}", *map(str, there.arguments)]):
        tls = {"ca": str(certificates.ca), "name": NAME}
        yield {"type": "syslog", "address": f"127.0.0.1:{PORT}", "tls": tls}, lines


@contextlib.contextmanager
def _started(arguments: Sequence[str]) -> Iterator[None]:
    """Run a receiver, which is on another host elsewhere. Here it gives way as a sink does."""
    code = "from supervisor.linux import cgroup, idle\nimport os, sys\n"
    code += "idle.put(cgroup.detect(), 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        idle.remove(cgroup.detect())
