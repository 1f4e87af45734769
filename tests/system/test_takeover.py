"""What a takeover finds of a call: told with the ids that it has inside, and what is gone as lost.

What a daemon had read and not recorded when it was killed is made here by reading it in its place.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from supervisor.audit.verify import verify
from supervisor.bpf import layout
from supervisor.bpf.decode import ArgvRecord, ExecRecord, ExitRecord, decode
from supervisor.bpf.maps import BpfMap, map_by_id
from supervisor.bpf.pins import open_map
from supervisor.bpf.rings import Ring
from supervisor.client import Started
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles
from tests.system.test_fence import kinds, pins, until

WORKER = "trap '/usr/bin/id; /usr/bin/id' USR1; sleep 600 & while :; do wait; done"
ROUND = 4
"""Events of one signal: two programs that start and end."""


def processes(daemon: Daemon, call_id: str, what: str) -> list[dict[str, Any]]:
    bodies = kinds(daemon, call_id, "processes")
    return [one for body in bodies for one in body["events"] if one["what"] == what]


def steal(maps: Path, events_min: int) -> int:
    """Read the ring of the one live call, as its daemon would; say how many events of processes
    were in it."""
    calls = BpfMap(open_map(maps / "calls"), ctypes.c_uint64, layout.CallRow, "calls")
    rings = BpfMap(open_map(maps / "rings"), ctypes.c_uint32, ctypes.c_uint32, "rings")
    [key] = calls.all_keys()
    row = calls.get(key)
    assert row is not None
    number = rings.get(ctypes.c_uint32(row.ring))
    assert number is not None
    ring = Ring(row.ring, map_by_id(number.value))
    found = []

    def enough() -> bool:
        found.extend(map(decode, ring.read()))
        return len(found) >= events_min

    until(enough)
    for one in (ring, calls, rings):
        one.close()
    return sum(isinstance(one, ExecRecord | ArgvRecord | ExitRecord) for one in found)


def sequence(maps: Path) -> int:
    """Say how many events the one live call has made."""
    calls = BpfMap(open_map(maps / "calls"), ctypes.c_uint64, layout.CallRow, "calls")
    [row] = [calls.get(key) for key in calls.all_keys()]
    calls.close()
    assert row is not None
    return int(row.sequence)


def test_what_a_killed_daemon_had_read_is_counted_as_lost() -> None:
    with running_daemon() as daemon:
        with daemon.client.execute(["sh", "-c", WORKER], profile="shell") as execution:
            call_id = execution.call_id
            # cell, the shell, and its sleep.
            until(lambda: len(processes(daemon, call_id, "started")) == 3)
            shell = processes(daemon, call_id, "started")[1]["pid"]
            maps = pins(daemon).parent / "maps"
            os.kill(daemon.pid, signal.SIGSTOP)
            os.kill(shell, signal.SIGUSR1)
            stolen = steal(maps, ROUND)
            before = sequence(maps)
            os.kill(shell, signal.SIGUSR1)
            until(lambda: sequence(maps) > before)
            daemon.kill()
        daemon.start()
        assert "took over" in daemon.log.read_text()
        assert kinds(daemon, call_id, "lost") == [
            {"what": "probe events", "count": stolen, "reason": "DAEMON_DIED"}
        ]
        started = processes(daemon, call_id, "started")
        assert len(started) > 3
        assert {one["uid"] for one in started} == {1000}


EGRESS = """profile: out
extends: base
use: [network]
why: Out to one host.
egress: [{host: api.example.com, port: 443, why: a test}]
limits: {egress: 1MiB}"""


def test_what_a_killed_daemon_s_brokers_had_open_is_lost_where_there_was_a_way_out(
    tmp_path: Path,
) -> None:
    with running_daemon(config=with_profiles(tmp_path, out=EGRESS)) as daemon:
        calls = {}
        for profile in ("out", "shell"):
            with daemon.client.execute(["sleep", "600"], profile=profile) as execution:
                next(event for event in execution if isinstance(event.event, Started))
                calls[profile] = execution.call_id
        for _ in range(2):  # the second finds them closed
            daemon.kill()
            daemon.start()
            assert flows_lost(daemon, calls["out"]) == [
                {"what": "flow", "count": 0, "reason": "DAEMON_DIED"}
            ]
            assert flows_lost(daemon, calls["shell"]) == []
        shown = daemon.command("audit", "show", calls["out"]).stdout.decode()
        assert "lost an unknown number of flow: DAEMON_DIED" in shown
        assert verify(daemon.state).ok


def flows_lost(daemon: Daemon, call_id: str) -> list[dict[str, Any]]:
    return [body for body in kinds(daemon, call_id, "lost") if body["what"] == "flow"]
