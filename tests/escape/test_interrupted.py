"""System calls that are denied and taken back before anybody looks: by a signal, or by a kill.

The kernel drops what waits for a thread that is gone. Its numbers tell how much that was: what is
on record as denied and what is on record as lost is all that was asked for.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from supervisor.call.events import Lost
from supervisor.call.outcome import Stopped
from tests.escape.arena import HOST_ENVIRONMENT, compiled, tried
from tests.support.daemon import Daemon
from tests.support.rounds import rounds

PROGRAM = "interrupted.c"
RUN = "cp interrupted own && chmod +x own && exec ./own "


def run(daemon: Daemon, profile: str, way: str, count: int):  # type: ignore[no-untyped-def]
    return daemon.client.run(
        ["sh", "-c", f"{RUN}{way} {count}"],
        profile=profile,
        files={"interrupted": compiled(PROGRAM)},
    )


@pytest.mark.parametrize("way", ["signal", "kill"])
def test_the_attack_interrupts_what_it_asks(way: str) -> None:
    """Unconfined, ptrace answers at once, so only asking is shown."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "interrupted"
        program.write_bytes(compiled(PROGRAM))
        program.chmod(0o755)
        said = subprocess.run(
            [program, way, "50"], check=True, capture_output=True, env=HOST_ENVIRONMENT, timeout=60
        )
    assert said.stdout.split()[0] == b"50"


@pytest.mark.parametrize("way", ["signal", "kill"])
def test_nothing_that_was_asked_is_missing(daemon: Daemon, way: str) -> None:
    count = rounds(500)
    call = run(daemon, "build", way, count)
    asked, taken_back = map(int, call.stdout.split())
    assert asked == count
    assert taken_back > 0
    trial = tried(daemon, call)
    lost = sum(one.count for one in call.lost if one.what == "denial")
    assert trial.count("ptrace") + lost == asked
    assert lost > 0
    assert all(isinstance(one, Lost) and one.reason == "THREAD_GONE" for one in call.lost)


def test_a_call_that_kills_cannot_be_dodged(daemon: Daemon) -> None:
    """What was lost may have been what kills: the call ends."""
    for _ in range(rounds(10)):
        call = run(daemon, "killing", "signal", 1)
        assert call.outcome == Stopped(by="daemon", reason="SYSCALL_KILL")
        assert call.lost or [one.name for one in call.denials] == ["ptrace"]
