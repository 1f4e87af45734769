"""What is left of the fence when something is lost: the daemon, a pin, a link, all of the pins."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from supervisor.call.events import Started
from supervisor.call.outcome import Failed, Interrupted
from supervisor.client import Execution
from supervisor.errors import HostError
from supervisor.sandbox.host import instance_of
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import wait_for
from tests.support.internet import PYTHON, internet
from tests.support.profiles import with_profiles

NET = "profile: net\nextends: python\nuse: [loopback]\nwhy: Sockets, which lead nowhere.\n"
WAIT_S = 30.0
ROUNDS = 20
TARGETS = {"203.0.113.9": "203.0.113.8", "2001:db8:1::9": "2001:db8:1::8"}
"""Whom the sandbox tries to reach → whom the control does."""

# Tries to reach every address by TCP and UDP, over and over, and writes down what came of it.
TRY = """
import errno, socket, sys, time
rounds, addresses = int(sys.argv[1]), sys.argv[2:]
with open("/work/log", "a", buffering=1) as log:
    while rounds:
        for address in addresses:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, kind) as sock:
                    sock.settimeout(5)
                    try:
                        sock.connect((address, 443))
                        sock.sendall(f"out to {address}".encode())
                        print("through", file=log)
                    except OSError as error:
                        print(errno.errorcode.get(error.errno, error), file=log)
        rounds -= 1
        time.sleep(0.01)
"""
log = logging.getLogger(__name__)


def control(inside: tuple[str, ...], folder: Path) -> list[str]:
    """Try the same in the same network namespace, but in no sandbox's cgroup."""
    script = TRY.replace("/work/log", str(folder / "log"))
    command = [*inside, PYTHON, "-c", script, "1", *TARGETS.values()]
    subprocess.run(command, check=True)
    return (folder / "log").read_text().splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A sandbox without its daemon, which goes on trying: its call, a process, what it wrote."""

    call_id: str
    pid: int
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def try_again(self) -> list[str]:
        """Wait for more attempts; give what came of all so far."""
        wanted = len(self.lines()) + ROUNDS * 2 * len(TARGETS)
        wait_for(lambda: len(self.lines()) > wanted, WAIT_S)
        return self.lines()


def orphan(daemon: Daemon) -> Orphan:
    """Kill the daemon of a sandbox that lives on."""
    with daemon.client.execute(["python3", "-c", TRY, "-1", *TARGETS], profile="net") as execution:
        wait_until_started(execution)
        wait_for(lambda: len(daemon.sandbox_processes()) == 2, WAIT_S)
        cell, pid = sorted(daemon.sandbox_processes())
        left = Orphan(call_id=execution.call_id, pid=pid, log=Path(f"/proc/{pid}/root/work/log"))
        wait_for(lambda: left.log.exists() and bool(left.lines()), WAIT_S)
        # It would end the sandbox when it finds its daemon gone: that wall is lost as well.
        os.kill(cell, signal.SIGSTOP)
        daemon.kill()
    return left


def test_killed_with_9_and_given_a_wire_the_sandbox_still_cannot_leave(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path / "profiles", net=NET)) as daemon:
        left = orphan(daemon)
        # Not even a network is missing any more: what is left to stop it is the fence.
        with internet(f"/proc/{left.pid}/ns/net") as there:
            assert control(there.inside, tmp_path) == ["through"] * 2 * len(TARGETS)
            lines = left.try_again()
            frames, heard = there.everything()
        assert set(lines) == {"EPERM"}
        for mine, others in TARGETS.items():
            assert not [frame for frame in frames if packed(mine) in frame]
            assert [frame for frame in frames if packed(others) in frame]
            assert not [text for text in heard if mine in text]
            assert heard.count(f"out to {others}") == 2
        daemon.start()
        assert daemon.sandbox_processes() == []
        finished = daemon.client.get(left.call_id).finished
        assert finished is not None
        assert isinstance(finished.outcome, Interrupted)
        # The next daemon has found what was counted while there was none.
        assert finished.denials >= len(lines)


def test_without_daemon_links_and_with_a_wire_nothing_is_left(tmp_path: Path) -> None:
    """So it is the links, and not something else, that stop the one of the test above."""
    with running_daemon(config=with_profiles(tmp_path / "profiles", net=NET)) as daemon:
        left = orphan(daemon)
        with internet(f"/proc/{left.pid}/ns/net") as there:
            remove_all(daemon)
            assert "through" in left.try_again()
            _, heard = there.everything()
        assert {f"out to {mine}" for mine in TARGETS} <= set(heard)
        daemon.start()
        assert daemon.sandbox_processes() == []


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def links(daemon: Daemon) -> Path:
    """Give the folder of the daemon's links."""
    [folder] = (daemon.runtime / instance_of(daemon.state) / "bpf").glob("v*/links")
    return folder


def wait_until_started(execution: Execution) -> None:
    while not isinstance(next(execution).event, Started):
        continue


def unpin(daemon: Daemon) -> str:
    (links(daemon) / "fence_sendmsg6").unlink()
    return "fence_sendmsg6 is no longer pinned"


def unpin_tracing(daemon: Daemon) -> str:
    (links(daemon) / "watch_exec").unlink()
    return "watch_exec is no longer pinned"


def unpin_map(daemon: Daemon) -> str:
    (links(daemon).parent / "maps/calls").unlink()
    return "the map calls is no longer pinned"


def detach(daemon: Daemon) -> str:
    command = ["bpftool", "link", "detach", "pinned", str(links(daemon) / "fence_egress")]
    subprocess.run(command, check=True)
    return "fence_egress is detached"


def remove_all(daemon: Daemon) -> str:
    for link in links(daemon).iterdir():
        link.unlink()
    return "fence_connect4 is no longer pinned"


def unmount(daemon: Daemon) -> str:
    folder = links(daemon).parent.parent
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    return f"{folder} is no longer mounted"


@pytest.mark.parametrize("lose", [unpin, unpin_tracing, unpin_map, detach, remove_all, unmount])
def test_a_loss_ends_every_call_and_keeps_others_out(lose: Callable[[Daemon], str]) -> None:
    with running_daemon() as daemon, contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(daemon.client.execute(["sleep", "600"], profile="base"))
            for _ in range(3)
        ]
        for execution in running:
            wait_until_started(execution)
        begin = time.monotonic()
        why = lose(daemon)
        wait_for(lambda: not daemon.sandbox_processes(), WAIT_S)
        took = time.monotonic() - begin
        log.info("%s: %.2f s until every sandbox was dead", lose.__name__, took)
        for execution in running:
            outcome = daemon.client.attach(execution.call_id).wait().outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "WALL_NOT_STANDING"
            assert why in outcome.message
        wait_for(lambda: daemon.health() == health_pb2.HealthCheckResponse.NOT_SERVING, WAIT_S)
        log.info("%s: %.2f s until health said so", lose.__name__, time.monotonic() - begin)
        with pytest.raises(HostError) as caught:
            daemon.client.run(["true"], profile="base")
        assert caught.value.reason == "WALL_NOT_STANDING"
        assert why in caught.value.message
        daemon.stop()
        daemon.start()
        assert daemon.client.run(["true"], profile="base").ok
