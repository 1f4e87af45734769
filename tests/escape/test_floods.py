"""A tight loop of denied system calls: each is counted, and the daemon has time for others."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest

from supervisor.client import FinishedCall, Supervisor
from supervisor.sandbox.denials import FOLD_S, KINDS_MAX
from tests.escape.arena import PROGRAMS, confined, on_host, tried
from tests.support.daemon import Daemon

ATTEMPTS = 12_000
"""Three seconds of what the daemon answers at most."""

OTHER_CALLS = 5


@pytest.mark.parametrize("way", ["same", "different", "threads"])
def test_every_attempt_is_counted(daemon: Daemon, way: str) -> None:
    attempts = ATTEMPTS // 3
    outside = json.loads(on_host("flood.py", way, str(attempts)).stdout)
    assert outside == {"denied": 0, "attempts": attempts}
    began = time.monotonic()
    trial = confined(daemon, "flood.py", way, str(attempts))
    windows = math.ceil((time.monotonic() - began) / FOLD_S)
    assert trial.said() == {"denied": attempts, "attempts": attempts}
    assert trial.count("ptrace") == attempts
    assert trial.call.finished.denials == attempts
    # Folded: in each second as many as are told apart, and as many again for the rest of each.
    assert len(trial.denied) <= 2 * KINDS_MAX * windows
    assert way == "different" or len(trial.denied) < attempts / 4
    if way == "different":
        # No two attempts had the same arguments: what stands for many of them names none.
        assert all(body["arguments"] == [] for body in trial.denied if body["count"] > 1)


def test_the_daemon_stays_responsive(daemon: Daemon) -> None:
    """The flood goes on while other calls run from beginning to end."""
    ended: list[FinishedCall] = []

    def flood() -> None:
        with Supervisor(daemon.address) as client:
            ended.append(client.run(
                ["python3", "flood.py", "same", str(10_000_000)], profile="python",
                files={"flood.py": PROGRAMS / "flood.py"}, timeout=60.0, request_id=request_id,
            ))  # fmt: skip

    request_id = "0b0e7bd5-6c2b-4c59-8a3d-9c5f4a0d7a11"
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        live = _wait_for_denials(daemon)
        for number in range(OTHER_CALLS):
            call = daemon.client.run(["echo", str(number)], profile="python", timeout=20.0)
            assert call.stdout == f"{number}\n".encode()
            assert not ended
        assert daemon.serving()
    finally:
        for one in daemon.client.list_calls(live_only=True):
            daemon.client.signal(one.call_id, 9)
        thread.join(60)
    assert ended[0].call_id == live
    assert tried(daemon, ended[0]).count("ptrace") == ended[0].finished.denials > 0


def _wait_for_denials(daemon: Daemon) -> str:
    while True:
        for one in daemon.client.list_calls(live_only=True):
            if one.denials:
                return one.call_id
