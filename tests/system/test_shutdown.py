"""How a daemon ends: in order, within its grace, with every outcome on record; and what it tells
while it lives."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.events import Finished
from supervisor.call.outcome import Exited, Outcome, Stopped, TimedOut
from supervisor.client import Execution, Retry, Supervisor
from supervisor.errors import ShuttingDown, StockadeError, Unreachable
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.following import end_of, is_output, until, wait_for
from tests.support.promtool import promtool
from tests.support.threads import at_once

METRICS = "127.0.0.1:9464"
NO_RETRY = Retry(attempts_max=0)
SLOW = ["sh", "-c", "echo begun; sleep 1; echo done"]
DEAF = ["sh", "-c", "trap '' TERM INT HUP; (setsid sleep 300 &); echo begun; sleep 300"]


def begin(daemon: Daemon, argv: list[str]) -> Execution:
    execution = daemon.client.execute(argv, profile="shell")
    until(execution, is_output)
    return execution


def outcomes(folder: Path) -> dict[str, Outcome]:
    """Read how every call ended, with the next daemon on the same state."""
    with running_daemon(folder=folder) as daemon:
        ends = {}
        for call in daemon.client.records():
            assert call.finished is not None
            ends[call.call_id] = call.finished.outcome
        return ends


class TestDrain:
    def test_a_call_that_ends_within_the_grace(self, tmp_path: Path) -> None:
        with running_daemon(folder=tmp_path, config={"limits": {"drain_grace": "20s"}}) as daemon:
            execution = begin(daemon, SLOW)
            ends: list[Finished] = []
            reader = threading.Thread(target=lambda: ends.append(end_of(execution)))
            reader.start()
            daemon.request_stop()
            wait_for(lambda: not daemon.serving())
            with (
                Supervisor(daemon.address, retry=NO_RETRY) as client,
                pytest.raises((ShuttingDown, Unreachable)),
            ):
                client.run(["true"], profile="base")
            assert daemon.wait() == 0, daemon.tail()
            reader.join(10)
            assert [end.outcome for end in ends] == [Exited(code=0)]
            assert daemon.leftovers() == []
        assert outcomes(tmp_path) == {execution.call_id: Exited(code=0)}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_calls_that_do_not_end(self, tmp_path: Path, number: int) -> None:
        with running_daemon(folder=tmp_path, config={"limits": {"drain_grace": "500ms"}}) as daemon:
            executions = [begin(daemon, DEAF) for _ in range(3)]
            ends: list[Finished] = []
            readers = [
                threading.Thread(target=lambda one=one: ends.append(end_of(one)))
                for one in executions
            ]
            for reader in readers:
                reader.start()
            daemon.request_stop(number)
            assert daemon.wait() == 0, daemon.tail()
            for reader in readers:
                reader.join(10)
            assert daemon.leftovers() == []
        stopped = Stopped(by="daemon", reason="SHUTDOWN")
        assert [end.outcome for end in ends] == [stopped] * 3
        assert outcomes(tmp_path) == {one.call_id: stopped for one in executions}
        assert verify(tmp_path / "state").ok

    def test_while_calls_are_being_prepared(self, tmp_path: Path) -> None:
        with running_daemon(folder=tmp_path, config={"limits": {"drain_grace": "100ms"}}) as daemon:

            def one(_: int) -> str:
                with Supervisor(daemon.address, retry=NO_RETRY) as client:
                    try:
                        return client.execute(["sleep", "300"], profile="base").call_id
                    except StockadeError:
                        return ""

            stopper = threading.Timer(0.05, daemon.request_stop)
            stopper.start()
            started = {call_id for call_id in at_once(one, range(12)) if call_id}
            assert daemon.wait() == 0, daemon.tail()
            assert daemon.leftovers() == []
        ended = outcomes(tmp_path)
        assert started <= set(ended)
        assert set(ended.values()) <= {Stopped(by="daemon", reason="SHUTDOWN")}

    def test_a_second_signal_does_no_harm(self, tmp_path: Path) -> None:
        with running_daemon(folder=tmp_path, config={"limits": {"drain_grace": "1s"}}) as daemon:
            execution = begin(daemon, DEAF)
            execution.close()
            for _ in range(3):
                daemon.request_stop()
                time.sleep(0.05)
            assert daemon.wait() == 0, daemon.tail()
            assert daemon.leftovers() == []
        assert set(outcomes(tmp_path).values()) == {Stopped(by="daemon", reason="SHUTDOWN")}


class TestSecondDaemon:
    def test_on_the_same_state(self, shared_daemon: Daemon, tmp_path: Path) -> None:
        """Also with another runtime folder and socket: the state is what counts."""
        execution = begin(shared_daemon, ["sh", "-c", "echo begun; sleep 0.5"])
        done = subprocess.run(
            [STOCKADE, "serve", "--state", shared_daemon.state, "--runtime-dir", tmp_path / "run",
             "--listen", f"unix://{tmp_path}/second.sock"],
            check=False, capture_output=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 7, done.stderr
        assert b"[STATE_LOCKED]" in done.stderr
        assert shared_daemon.serving()
        assert end_of(execution).outcome == Exited(code=0)

    def test_two_daemons_with_states_of_their_own(self, shared_daemon: Daemon) -> None:
        """One that ends takes nothing of the other's along."""
        execution = begin(shared_daemon, SLOW)
        with running_daemon() as other:
            other.client.run(["true"], profile="base")
            other.kill()
            other.start()
        assert end_of(execution).outcome == Exited(code=0)


class TestMetrics:
    def test_they_tell_of_calls(self, tmp_path: Path) -> None:
        archive = {"type": "file", "path": str(tmp_path / "events"), "format": "json"}
        config = {
            "metrics": {"listen": METRICS}, "limits": {"calls": 3}, "sinks": {"archive": archive},
        }  # fmt: skip
        with running_daemon(folder=tmp_path, config=config) as daemon:
            client = daemon.client
            client.run(["true"], profile="base")
            client.run(["sh", "-c", "exit 3"], profile="shell")
            client.run(["unshare", "-r", "true"], profile="shell")
            timed_out = client.run(["sleep", "9"], profile="base", timeout=0.1)
            assert timed_out.outcome == TimedOut(limit_s=0.1)
            running = [begin(daemon, DEAF) for _ in range(3)]
            with pytest.raises(StockadeError) as refused:
                client.run(["true"], profile="base")
            assert refused.value.reason == "CALLS_LIMIT"
            text = scrape(daemon)
            for execution in running:
                execution.cancel()
                end_of(execution)
            until = time.monotonic() + 30  # a head is signed every few seconds
            while not value(scrape(daemon), "stockade_head_entries"):
                assert time.monotonic() < until, daemon.tail()
                time.sleep(0.2)
        assert value(text, "stockade_live_calls") == 3
        assert value(text, "stockade_calls_total", profile="base", outcome="exited") == 1
        assert value(text, "stockade_calls_total", profile="shell", outcome="exited") == 2
        assert value(text, "stockade_calls_total", profile="base", outcome="timed_out") == 1
        assert value(text, "stockade_rejects_total", reason="CALLS_LIMIT") == 1
        assert value(text, "stockade_denials_total", name="unshare") >= 1
        assert value(text, "stockade_journal_fsync_seconds_count") > 0
        assert value(text, "stockade_call_duration_seconds_count", profile="shell") == 2
        assert value(text, "stockade_admission_seconds_count", step="record") == 7
        assert value(text, "stockade_calls_limit") == 3
        assert value(text, "stockade_profile_info", profile="base") == 1
        assert value(text, "stockade_state_watermark_bytes", mark="hard") > 0
        assert value(text, "stockade_sink_info", sink="archive", kind="file") == 1
        assert value(text, "process_open_fds") > 0
        done = promtool("check", "metrics", text=text)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        assert not any(call.call_id in text for call in running)
        assert timed_out.call_id not in text


def scrape(daemon: Daemon) -> str:
    """Ask for the metrics, from inside of the daemon's network namespace."""
    program = (
        "import urllib.request as r; "
        f"print(r.urlopen('http://{METRICS}/metrics', timeout=10).read().decode())"
    )
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{daemon.pid}/ns/net", sys.executable, "-c", program],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout


def value(text: str, sample: str, /, **labels: str) -> float:
    """Add up the samples of that name that have these labels."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"{sample}(?:\{{(.*)\}})? (\S+)", line)
        if match:
            has = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
            if labels.items() <= has.items():
                found.append(float(match[2]))
    assert found, f"{sample} {labels} is not told\n{text}"
    return sum(found)
