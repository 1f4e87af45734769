"""What a network namespace counts, also after its last process is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux import netns
from supervisor.linux.netns import RouteCounters, interfaces

SNMP = """\
Ip: Forwarding DefaultTTL OutDiscards OutNoRoutes ReasmTimeout
Ip: 1 64 0 17 0
Icmp: InMsgs OutNoRoutes
Icmp: 1 99
"""
SNMP6 = "Ip6InReceives                   \t3\nIp6OutNoRoutes                  \t5\n"

TRY = """
import socket, sys
sys.stdin.readline()
for family, address in ((socket.AF_INET, "203.0.113.9"), (socket.AF_INET6, "2001:db8::9")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as sock:
                sock.connect((address, 443))
        except OSError as error:
            print(error.errno, flush=True)
"""


@pytest.fixture
def alone() -> Iterator[subprocess.Popen[str]]:
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec python3 -c "$0"', TRY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_apart(process: subprocess.Popen[str]) -> None:
    theirs, ours = Path(f"/proc/{process.pid}/ns/net"), Path("/proc/self/ns/net")
    while theirs.readlink() == ours.readlink():
        assert process.poll() is None


@pytest.mark.root
def test_what_finds_no_route_is_counted(alone: subprocess.Popen[str]) -> None:
    assert alone.stdin is not None
    wait_until_apart(alone)
    counters = RouteCounters(alone.pid)
    try:
        assert counters.refused() == {"IPv4": 0, "IPv6": 0}
        alone.stdin.write("go\n")
        alone.stdin.flush()
        assert alone.wait(30) == 0
        assert counters.refused() == {"IPv4": 2, "IPv6": 2}
    finally:
        counters.close()


@pytest.mark.root
def test_only_loopback(alone: subprocess.Popen[str]) -> None:
    wait_until_apart(alone)
    assert interfaces(alone.pid) == ["lo"]


def test_own_interfaces() -> None:
    assert "lo" in interfaces(os.getpid())


def test_the_right_column_is_read() -> None:
    assert netns._ipv4(SNMP) == 17
    assert netns._ipv6(SNMP6) == 5
    assert netns._ipv6("Ip6InReceives 3\n") == 0


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns.Path, "exists", lambda path: False)
    counters = RouteCounters(os.getpid())
    assert set(counters.refused()) == {"IPv4"}
    counters.close()
