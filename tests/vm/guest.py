"""What runs inside a virtual machine: the doctor, and the daemon as a service of systemd's.

`boots.py` boots the machine and runs this file there with pytest; its name keeps it out of
any other run. One daemon for this file and others, see conftest.py. The order counts: this file is
run after the others, and its last test stops the daemon.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import (
    Exited,
    Interrupted,
    LimitExceeded,
    LimitKind,
    OutOfMemory,
    Stopped,
    TimedOut,
)
from supervisor.client import Execution, FinishedCall, Supervisor
from tests.support.following import end_of, is_started, until, wait_for
from tests.support.leftovers import Footprint
from tests.vm.service import (
    ADDRESS,
    EVENTS,
    RUNTIME,
    STATE,
    STOCKADE,
    TREE,
    UNIT,
    cgroups,
    listens,
    main_pid,
    systemctl,
)

WAIT_S = 300.0
NOT_HERE = {"BCC tools"}
"""What the doctor may miss, and no wall is."""

FORKS = "import os, time\nfor _ in range(64):\n  os.fork() or time.sleep(100)\n"
UNSHARE = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"
pytestmark = pytest.mark.usefixtures("served")
log = logging.getLogger(__name__)


def python(client: Supervisor, code: str, **more: object) -> FinishedCall:
    call = client.run(["python3", "-c", code], profile="runc", **more)  # type: ignore[arg-type]
    assert cgroups() == []
    return call


@contextlib.contextmanager
def sleeping(client: Supervisor, profile: str = "runc") -> Iterator[Execution]:
    """Have a call that sleeps, once it runs."""
    with client.execute(["sleep", "600"], profile=profile) as execution:
        until(execution, is_started)
        yield execution


def test_only_version_2_is_there() -> None:
    log.info("kernel %s", os.uname().release)
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if "cgroup" in line]
    assert [line.split()[1:3] for line in mounts] == [[str(TREE), "cgroup2"]]


def test_every_wall_holds() -> None:
    done = subprocess.run(
        [STOCKADE, "doctor", "--json", "--runtime-dir", "/run/doctor"],
        check=False, stdout=subprocess.PIPE,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    for row in rows:
        log.info("%s: %s: %s", row["wall"], row["verdict"], row["detail"])
    absent = {row["wall"] for row in rows if row["verdict"] == "absent"}
    assert absent <= NOT_HERE
    assert [row for row in rows if row["verdict"] not in ("holds", "absent")] == []
    assert len(rows) >= 11


def test_the_daemon_is_in_a_leaf_below_a_slice() -> None:
    placed = Path(f"/proc/{main_pid()}/cgroup").read_text()
    assert placed == f"0::/system.slice/{UNIT}\n"


def test_a_call(client: Supervisor) -> None:
    call = python(client, "print(6 * 7); open('out', 'w').write('kept')", outputs=["out"])
    assert (call.outcome, call.stdout) == (Exited(code=0), b"42\n")
    assert call.outputs["out"] == b"kept"
    assert call.usage.memory_peak_bytes > 1 << 20
    assert call.usage.cpu_user_s + call.usage.cpu_system_s > 0


def test_events_leave_by_a_process_that_goes_behind_calls(client: Supervisor) -> None:
    call = client.run(["true"], profile="pure")
    wait_for(lambda: EVENTS.exists() and call.call_id in EVENTS.read_text(), WAIT_S)
    (pid,) = (TREE / "stockade-idle/cgroup.procs").read_text().split()
    assert f"PPid:\t{main_pid()}\n" in Path(f"/proc/{pid}/status").read_text()
    assert (TREE / "stockade-idle/cpu.idle").read_text() == "1\n"


def test_a_profile_that_requires_version_2_is_served(client: Supervisor) -> None:
    assert client.run(["true"], profile="pure").outcome == Exited(code=0)


def test_limits_stand_in_the_cgroup_and_reloading_systemd_takes_nothing_away(
    client: Supervisor,
) -> None:
    with sleeping(client) as execution:
        (folder,) = cgroups()
        assert folder.name == execution.call_id
        names = ("memory.max", "memory.swap.max", "pids.max")
        limits = [str(64 << 20), "0", "16"]
        assert [(folder / name).read_text().strip() for name in names] == limits
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        wanted = {"cpu", "memory", "pids"}
        assert wanted <= set((folder / "cgroup.controllers").read_text().split())
        assert [(folder / name).read_text().strip() for name in names] == limits
        execution.cancel()
        assert isinstance(end_of(execution).outcome, Stopped)
    assert cgroups() == []
    assert python(client, "print(1)").outcome == Exited(code=0)


def test_limits(client: Supervisor) -> None:
    memory = python(client, "x = bytearray(1 << 30)").outcome
    assert isinstance(memory, OutOfMemory)
    assert memory.kills == 1
    assert 0.9 * memory.limit_bytes < memory.peak_bytes <= memory.limit_bytes
    cpu = client.run(["sh", "-c", "while :; do :; done"], profile="brief").outcome
    assert isinstance(cpu, LimitExceeded)
    assert cpu.limit is LimitKind.CPU
    assert python(client, FORKS).denials[0].name == LimitKind.PIDS.value
    assert python(client, "import time; time.sleep(600)", timeout=1).outcome == TimedOut(limit_s=1)


def test_a_denied_system_call_is_told(client: Supervisor) -> None:
    call = python(client, UNSHARE)
    assert call.stdout == b"-1\n"
    assert [denied.detail for denied in call.denials] == ["unshare(CLONE_NEWUSER)"]


def test_a_restarted_daemon_ends_what_the_killed_one_left(client: Supervisor) -> None:
    with sleeping(client, "runc") as one, sleeping(client, "crun") as other:
        folders = cgroups()
        assert len(folders) == 2
        killed = main_pid()
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: main_pid() not in (0, killed), WAIT_S)
        wait_for(lambda: not any(folder.exists() for folder in folders), WAIT_S)
        wait_for(listens, WAIT_S)
    with Supervisor(ADDRESS) as again:
        for call_id in (one.call_id, other.call_id):
            assert isinstance(end_of(again.attach(call_id)).outcome, Interrupted)
        assert python(again, "print(1)").outcome == Exited(code=0)


def test_nothing_is_left() -> None:
    systemctl("stop")
    assert [str(path) for path in TREE.rglob("*stockade*") if path.is_dir()] == []
    assert not list(Path("/run/crun").glob("*"))
    assert Footprint(folders=(STATE, RUNTIME), cgroup="stockade").leftovers() == []
    verified = subprocess.run([STOCKADE, "audit", "verify", STATE], check=False)
    assert verified.returncode == 0
