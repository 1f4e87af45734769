"""Floods at the door: refused requests leave no memory behind, and one user keeps no other out."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api.front import QUIET_S
from supervisor.v1 import tool_pb2, tool_pb2_grpc
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.rounds import SOAK, rounds
from tests.support.users import become

MIB = 1 << 20
GROWTH_MAX = 64 * MIB
"""Of the daemon's resident memory, however much was refused: here 50 times 4 MiB."""

REFUSED = rounds(150) if SOAK else 50
CALLER, STRANGER, ANOTHER = 65534, 65533, 65532
GROUP = 65534
CALLS = 10 if SOAK else 4
DESCRIPTORS_MAX = 600
"""Those of an idle daemon, and three for each of half the connections."""

FLOOD = f"""
import os, socket, sys
os.setgroups([]); os.setgid({GROUP}); os.setuid(int(sys.argv[2]))
data = b"PRI * HTTP/2.0" + bytes([13, 10, 13, 10]) + b"SM" + bytes([13, 10, 13, 10])
data += os.urandom(300)
for number in range(10**9):
    if number == 1000:
        print("flooding", flush=True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        try:
            connection.send(data)
        except OSError:
            continue
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    callers = [
        {"name": "owner", "uid": 0, "profiles": ["base"], "calls": "all"},
        {"name": "caller", "uid": CALLER, "profiles": ["base"]},
        {"name": "another", "uid": ANOTHER, "profiles": ["base"]},
    ]
    with running_daemon(
        config={"callers": callers, "socket": {"group": "nogroup", "mode": "0660"}}
    ) as running:
        assert running.client.run(["true"], profile="base").ok
        yield running


def resident(pid: int) -> int:
    """Read VmRSS in bytes (proc_pid_status(5))."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return int(fields["VmRSS"].split()[0]) << 10


def not_granted(stub: Any) -> Any:
    return list(stub.Execute(tool_pb2.ExecuteRequest(profile="python", stdin=bytes(4 * MIB))))


def invalid(stub: Any) -> Any:
    return list(stub.Execute(tool_pb2.ExecuteRequest(profile="base", stdin=bytes(4 * MIB))))


def stdin(stub: Any) -> Any:
    return stub.WriteStdin(tool_pb2.WriteStdinRequest(call_id="x", data=bytes(4 * MIB)))


def blob(stub: Any) -> Any:
    return stub.WriteBlob(iter([tool_pb2.WriteBlobRequest(data=bytes(4 * MIB))]))


@pytest.mark.parametrize("send", [not_granted, invalid, stdin, blob])
def test_refused_requests_leave_no_memory_behind(daemon: Daemon, send: Any) -> None:
    most = before = resident(daemon.pid)
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        for _ in range(REFUSED):
            with pytest.raises(grpc.RpcError) as raised:
                send(stub)
            assert raised.value.code() in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.INVALID_ARGUMENT,
            )
            most = max(most, resident(daemon.pid))
    assert most - before < GROWTH_MAX


@contextlib.contextmanager
def flood(daemon: Daemon, uid: int) -> Iterator[None]:
    """Connect in a loop as `uid`, in the background; ends with the body."""
    command = [sys.executable, "-c", FLOOD, str(daemon.socket), str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as flooder:
        try:
            assert flooder.stdout is not None
            assert flooder.stdout.readline() == b"flooding\n"
            yield
            assert flooder.poll() is None
        finally:
            flooder.kill()


def refusals(daemon: Daemon) -> list[str]:
    return [line for line in daemon.log.read_text().splitlines() if "refused a connection" in line]


@pytest.mark.parametrize("uid", [STRANGER, CALLER], ids=["stranger", "caller"])
def test_a_flood_of_connections_keeps_nobody_out(daemon: Daemon, uid: int) -> None:
    """Each call of another user completes, and the flood is a line in the log now and then."""
    with flood(daemon, uid):
        done = [
            subprocess.run(
                [*become(ANOTHER), STOCKADE, "run", "-p", "base", "--", "echo", str(number)],
                check=False, capture_output=True, timeout=120, cwd="/",
                env={"PATH": "/usr/bin:/bin", "STOCKADE_ADDR": daemon.address},
            )
            for number in range(CALLS)
        ]  # fmt: skip
        descriptors = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
    assert [(call.returncode, call.stdout) for call in done] == [
        (0, b"%d\n" % number) for number in range(CALLS)
    ], [call.stderr for call in done]
    assert descriptors < DESCRIPTORS_MAX
    lines = refusals(daemon)
    assert lines
    times = [datetime.datetime.fromisoformat(line.split()[0]) for line in lines]
    quiet = datetime.timedelta(seconds=QUIET_S - 0.1)
    assert all(later - earlier >= quiet for earlier, later in itertools.pairwise(times))
