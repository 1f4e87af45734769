"""Floods at the door: refused requests leave no memory behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.v1 import tool_pb2, tool_pb2_grpc
from tests.support.daemon import Daemon, running_daemon
from tests.support.rounds import rounds

MIB = 1 << 20
GROWTH_MAX = 64 * MIB
"""Of the daemon's resident memory, however much was refused: here 150 times 4 MiB."""

REFUSED = rounds(150)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    callers = [{"name": "owner", "uid": 0, "profiles": ["base"], "calls": "all"}]
    with running_daemon(config={"callers": callers}) as running:
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
