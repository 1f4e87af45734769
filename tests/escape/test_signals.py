"""Signals reach nobody but the sandbox's own processes, and do not keep it from being ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from supervisor.call.outcome import Exited, Stopped, TimedOut
from supervisor.errors import InvalidRequest
from tests.escape.arena import APART, PYTHON, confined, on_host, tried
from tests.support.daemon import Daemon

STUBBORN = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        print(number)
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def test_kill_all_reaches_only_its_own(daemon: Daemon) -> None:
    with subprocess.Popen([PYTHON, "-c", "import time; time.sleep(600)"]) as bystander:
        try:
            own = on_host("kill_all.py", json.dumps([os.getpid()]), inside=APART)
            assert json.loads(own.stdout.splitlines()[1]) == {"child": signal.SIGKILL}
            pids = [bystander.pid, os.getpid(), daemon.pid]
            trial = confined(daemon, "kill_all.py", json.dumps(pids))
            before, after = map(json.loads, trial.lines)
            assert len(before["seen"]) <= 3  # cell, the program, its child
            assert set(before["answers"]) == {"ESRCH"}
            assert after == {"child": signal.SIGKILL}
            assert trial.call.outcome == Exited(code=0)
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert daemon.serving()


def test_a_program_that_ignores_every_signal_ends_in_time(daemon: Daemon) -> None:
    call = daemon.client.run(["python3", "-c", STUBBORN], profile="python", timeout=1.0)
    assert call.outcome == TimedOut(limit_s=1.0)
    assert call.stdout.endswith(b"ready\n")
    assert [body["name"] for body in tried(daemon, call).denied] == ["wall"]


def test_a_program_that_ignores_every_signal_is_killed(daemon: Daemon) -> None:
    with daemon.client.execute(["python3", "-c", STUBBORN], profile="python") as execution:
        for event in execution:
            if b"ready" in getattr(event.event, "data", b""):
                execution.signal(signal.SIGTERM)
                execution.signal(signal.SIGKILL)
    call = daemon.client.attach(execution.call_id).wait()
    assert isinstance(call.outcome, Stopped)
    assert (call.outcome.reason, call.outcome.signal) == ("SIGNAL", signal.SIGKILL)


def test_init_cannot_be_ended_from_within(daemon: Daemon) -> None:
    """What it can be sent it passes on to the program, which ignores it here."""
    script = (
        "import os, signal, time\n"
        "for n in set(range(1, 32)) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "for n in range(1, 32): os.kill(1, n)\n"
        "time.sleep(0.2); print('still here')\n"
    )
    call = daemon.client.run(["python3", "-c", script], profile="python")
    assert (call.stdout, call.exit_code) == (b"still here\n", 0)


def test_the_init_cannot_be_stopped_from_outside(daemon: Daemon) -> None:
    """A stopped init would not see the program's end: the call would last until its limit."""
    with daemon.client.execute(["cat"], profile="python", stdin_open=True) as execution:
        with pytest.raises(InvalidRequest) as caught:
            execution.signal(signal.SIGSTOP)
        assert caught.value.reason == "SIGNAL_INVALID"
        execution.close_stdin()
        assert execution.wait().ok
