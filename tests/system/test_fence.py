"""The fence around real calls: denied and told, with the daemon alive, killed, or without pins."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.events import Denied, ProcessEnded, Processes, ProgramStarted, Wall
from supervisor.call.outcome import Exited, Interrupted
from supervisor.linux import cgroup, mounts
from supervisor.sandbox.host import PARENT_CGROUP, instance_of
from supervisor.sandbox.places import find_canary
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

NOTICED_S = 10.0
NET = "profile: net\nextends: python\nuse: [loopback]\nwhy: Sockets, which lead nowhere.\n"
CONNECT = (
    "import socket\n"
    "for host in ('203.0.113.9', '203.0.113.9', '198.51.100.1'):\n"
    "    try: socket.create_connection((host, 443))\n"
    "    except OSError as error: print(error.errno)\n"
)


def pins(daemon: Daemon) -> Path:
    """Give the folder of the daemon's links."""
    folder = daemon.runtime / instance_of(daemon.state) / "bpf"
    [version] = [entry for entry in folder.iterdir() if entry.name.startswith("v")]
    return version / "links"


def kinds(daemon: Daemon, call_id: str, kind: str) -> list[dict[str, Any]]:
    """Give the bodies of a call's entries of a kind."""
    entries = daemon.client.record(call_id).entries
    return [entry.body()["body"] for entry in entries if entry.kind == kind]  # type: ignore[misc]


def until(what: Any, timeout_s: float = NOTICED_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_program_is_on_record(tmp_path: Path) -> None:
    with running_daemon() as daemon:
        events: list[Any] = []
        argv = ["sh", "-c", "cd /usr/share; /usr/bin/env printf %s x; exit 3"]
        with daemon.client.execute(argv, profile="shell") as execution:
            for event in execution:
                if isinstance(event.event, Processes):
                    events += event.event.events
        started = [one for one in events if isinstance(one, ProgramStarted)]
        assert [one.path for one in started] == [
            b"/.stockade/cell", b"/usr/bin/dash", b"/usr/bin/env", b"/usr/bin/printf",
        ]  # fmt: skip
        assert started[2].argv == (b"/usr/bin/env", b"printf", b"%s", b"x")
        assert {one.directory for one in started[2:]} == {b"/usr/share"}
        assert {one.uid for one in started} == {1000}
        shell = started[1].pid
        assert started[2].parent_pid == shell
        [end] = [one for one in events if isinstance(one, ProcessEnded) and one.pid == shell]
        assert (end.code, end.signal) == (3, 0)
        recorded = [
            one for body in kinds(daemon, execution.call_id, "processes") for one in body["events"]
        ]
        assert len(recorded) == len(events)
        shown = daemon.command("audit", "show", execution.call_id).stdout
        assert b"/usr/bin/printf" in shown


def test_an_attempt_to_leave_is_denied_and_on_record(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, net=NET)) as daemon:
        call = daemon.client.run(["python3", "-c", CONNECT], profile="net")
        assert call.stdout == b"1\n1\n1\n"
        assert call.outcome == Exited(code=0)
        counts: dict[str, int] = {}
        for denied in call.denials:
            assert (denied.wall, denied.name) == (Wall.NETWORK, "connect")
            assert denied.rule == "egress: nothing is allowed"
            counts[denied.detail] = counts.get(denied.detail, 0) + denied.count
        assert counts == {"203.0.113.9:443 tcp": 2, "198.51.100.1:443 tcp": 1}
        assert call.finished.denials == 3


def test_the_canarys_own_attempt_is_told_at_once(tmp_path: Path) -> None:
    """The kernel has told that kind before, of the canary, and only counts it from then on."""
    code = (
        "import socket, time\n"
        "try: socket.socket(2, socket.SOCK_DGRAM).connect(('169.254.169.254', 9))\n"
        "except OSError: time.sleep(600)\n"
    )
    with (
        running_daemon(config=with_profiles(tmp_path, net=NET)) as daemon,
        daemon.client.execute(["python3", "-c", code], profile="net") as execution,
    ):
        told = next(one.event for one in execution if isinstance(one.event, Denied))
        assert (told.detail, told.count) == ("169.254.169.254:9 udp", 1)
        execution.cancel()


def test_the_fence_outlives_the_daemon_and_is_taken_over(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, net=NET)) as daemon:
        script = CONNECT + "import time; time.sleep(600)"
        with daemon.client.execute(["python3", "-c", script], profile="net") as execution:
            call_id = execution.call_id
            until(lambda: len(kinds(daemon, call_id, "denied")) >= 2)
            daemon.kill()
        hierarchies = cgroup.detect()
        left = cgroup.Cgroup(hierarchies, f"{PARENT_CGROUP}/{instance_of(daemon.state)}/left")
        left.make()
        try:
            # A stranger right below its cgroup: not even a socket is to be had (2: no attempt).
            assert subprocess.run([find_canary(), left.unified], check=False).returncode == 2
        finally:
            left.unified.rmdir()
        daemon.start()
        assert "took over" in daemon.log.read_text()
        assert daemon.client.run(["true"], profile="base").ok
        found = daemon.client.get(call_id)
        assert found.finished is not None
        assert found.finished.denials == 3
        assert kinds(daemon, call_id, "lost") == []
        bodies = kinds(daemon, call_id, "processes")
        ended = [one for body in bodies for one in body["events"] if one["what"] == "ended"]
        # The program was still alive when its daemon was killed: this was waiting in the ring.
        assert any(one["signal"] == 9 for one in ended)


@pytest.mark.parametrize("reason", ["FENCE_REPLACED", "FENCE_GONE", "FENCE_READ"])
def test_what_no_daemon_can_read_any_more_is_told_as_lost(tmp_path: Path, reason: str) -> None:
    """The probes of a killed daemon are of another version, gone as after a new start, or read."""
    with running_daemon() as daemon:
        with daemon.client.execute(["sleep", "600"], profile="base") as execution:
            call_id = execution.call_id
            until(lambda: kinds(daemon, call_id, "processes"))
            daemon.kill()
        version = pins(daemon).parent
        if reason == "FENCE_REPLACED":
            version.rename(version.with_name("v0-other"))
        elif reason == "FENCE_READ":
            # Another daemon took over, and was killed before it could record what it had read.
            (version.parent / "gap-FENCE_READ").mkdir()
        else:
            mounts.unmount(version.parent)
        daemon.start()
        assert kinds(daemon, call_id, "lost") == [
            {"what": "probe events", "count": 0, "reason": reason}
        ]
        assert isinstance(daemon.client.get(call_id).finished.outcome, Interrupted)  # type: ignore[union-attr]
        shown = daemon.command("audit", "show", call_id).stdout
        assert f"lost an unknown number of probe events: {reason}".encode() in shown
        assert daemon.command("audit", "verify", str(daemon.state)).returncode == 0
        assert pins(daemon).is_dir()
