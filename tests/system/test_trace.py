"""`stockade trace` over a real daemon.

The tool is a stub: BCC's own need kprobes and the kernel's headers, which the kernel of the
development machine has not. It takes the same option, opens the pinned map by the path that it is
given, as they do, and prints whose rows are in it, again and again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.bpf.guests import ONE_CALL
from supervisor.call.events import Started
from supervisor.client import Execution
from supervisor.errors import CallStateError
from supervisor.linux import cgroup
from supervisor.sandbox.host import PARENT_CGROUP, instance_of
from tests.support.daemon import STOCKADE, Daemon, running_daemon

PATIENCE_S = 20.0
STUB = r"""#!/usr/bin/python3
import ctypes, os, sys, time
arguments = sys.argv[1:]
if arguments == ["--help"]:
    print("usage: stub [--cgroupmap CGROUPMAP]")
    raise SystemExit
if "fail" in arguments:
    print("stub: cannot attach kprobe", file=sys.stderr)
    raise SystemExit(3)
print("argv", *arguments, flush=True)
print("environment", *sorted(os.environ), flush=True)
bpf = ctypes.CDLL("libbpf.so.1")
fd = bpf.bpf_obj_get(arguments[arguments.index("--cgroupmap") + 1].encode())
try:
    while True:
        last, key, seen = None, ctypes.c_uint64(), []
        while bpf.bpf_map_get_next_key(fd, last and ctypes.byref(last), ctypes.byref(key)) == 0:
            seen.append(key.value)
            last = ctypes.c_uint64(key.value)
        print("seen", *sorted(seen), flush=True)
        time.sleep(0.05)
except KeyboardInterrupt:
    print("the end", flush=True)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> str:
    tool = tmp_path / "stub-bpfcc"
    tool.write_text(STUB)
    tool.chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


class Tracing:
    """A `stockade trace` that runs, and what its tool says."""

    def __init__(self, daemon: Daemon, path: str, *words: str) -> None:
        command = [STOCKADE, "trace", "--runtime-dir", daemon.runtime, *words]
        ours = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "SECRET": "x", "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            env={"PATH": path, **ours},
        )  # fmt: skip

    def line(self, start: str) -> list[str]:
        """Read up to a line that begins so; give the rest of its words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.split()[1:]
        raise AssertionError(f"no {start!r}: {self.process.communicate()}")

    def until_seen(self, wanted: set[int]) -> None:
        """Wait until exactly those are in the tool's map."""
        deadline = time.monotonic() + PATIENCE_S
        while {int(number) for number in self.line("seen")} != wanted:
            assert time.monotonic() < deadline

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; give exit code, output and errors."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


@contextlib.contextmanager
def tracing(daemon: Daemon, path: str, *words: str) -> Iterator[Tracing]:
    one = Tracing(daemon, path, *words)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


@contextlib.contextmanager
def live_call(daemon: Daemon) -> Iterator[tuple[Execution, int]]:
    """Run a call; give it, and the id of its cgroup."""
    with daemon.client.execute(["sleep", "600"], profile="base") as execution:
        for event in execution:
            if isinstance(event.event, Started):
                break
        instance = instance_of(daemon.state)
        folder = cgroup.detect().unified / PARENT_CGROUP / instance / execution.call_id
        try:
            yield execution, folder.stat().st_ino
        finally:
            with contextlib.suppress(CallStateError):  # the test has ended it
                daemon.client.signal(execution.call_id, signal.SIGKILL)
            daemon.client.attach(execution.call_id).wait()


def pins(daemon: Daemon) -> Path:
    return daemon.runtime / instance_of(daemon.state) / "bpf"


def maps_of_single_calls(daemon: Daemon) -> list[str]:
    return [entry.name for entry in pins(daemon).iterdir() if entry.name.startswith(ONE_CALL)]


def test_one_call_is_seen_and_the_tool_ends_with_it(daemon: Daemon, path: str) -> None:
    with live_call(daemon) as (execution, number), live_call(daemon):
        with tracing(daemon, path, execution.call_id, "stub", "-x", "--", "y") as one:
            option, pinned, *rest = one.line("argv")
            assert (option, rest) == ("--cgroupmap", ["-x", "--", "y"])
            assert Path(pinned).is_relative_to(pins(daemon))
            assert one.line("environment") == ["LC_ALL", "PATH", "PYTHONUNBUFFERED", "TERM"]
            for _ in range(3):
                assert one.line("seen") == [str(number)]
            daemon.client.signal(execution.call_id, signal.SIGKILL)
            code, output, errors = one.end()
        assert code == 0
        assert output.endswith("the end\n")
        assert "the call has ended" in errors
        assert maps_of_single_calls(daemon) == []


def test_all_calls_are_seen_as_they_come_and_go(daemon: Daemon, path: str) -> None:
    with tracing(daemon, path, "--all", "stub-bpfcc") as every:
        assert every.line("argv") == ["--cgroupmap", str(pins(daemon) / "live")]
        every.until_seen(set())
        with live_call(daemon) as (_, first):
            every.until_seen({first})
            with live_call(daemon) as (_, second):
                every.until_seen({first, second})
            every.until_seen({first})
        every.until_seen(set())
        every.process.send_signal(signal.SIGTERM)
        code, output, _ = every.end()
    assert output.endswith("the end\n")
    assert code == 0


def test_ctrl_c_reaches_the_tool_once(daemon: Daemon, path: str) -> None:
    """A terminal sends it to both; a second one would cut short what the tool prints at its end."""
    with tracing(daemon, path, "--all", "stub") as one:
        one.line("seen")
        os.killpg(one.process.pid, signal.SIGINT)
        code, output, errors = one.end()
    assert (code, errors) == (0, "")
    assert output.endswith("the end\n")


def test_a_tool_that_fails_is_told_with_what_the_kernel_lacks(daemon: Daemon, path: str) -> None:
    with tracing(daemon, path, "--all", "stub", "fail") as one:
        code, _, errors = one.end()
    assert "stub: cannot attach kprobe" in errors
    if Path("/sys/bus/event_source/devices/kprobe").exists():
        assert code in (3, 5)
    else:
        assert code == 5
        assert "[TOOL_FAILED]" in errors
        assert "CONFIG_KPROBE_EVENTS" in errors


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("no-such-call", "stub"), 3, "CALL_NOT_LIVE"),
        (("--all", "no-such-tool"), 5, "TOOL_MISSING"),
        (("--state", "/nowhere", "--all", "stub"), 7, "DAEMON_NOT_RUNNING"),
    ],
)
def test_what_cannot_be_traced(
    daemon: Daemon, path: str, words: tuple[str, ...], code: int, reason: str
) -> None:
    with tracing(daemon, path, *words) as one:
        ended, _, errors = one.end()
    assert (ended, f"[{reason}]" in errors, "hint:" in errors) == (code, True, True)


def test_a_call_that_has_ended_cannot_be_traced(daemon: Daemon, path: str) -> None:
    call = daemon.client.run(["true"], profile="base")
    with tracing(daemon, path, call.call_id, "stub") as one:
        code, _, errors = one.end()
    assert (code, "[CALL_NOT_LIVE]" in errors) == (3, True)


def test_the_list_names_the_map(daemon: Daemon, path: str) -> None:
    with tracing(daemon, path, "--list", "--json") as one:
        code, output, _ = one.end()
    assert code == 0
    assert json.loads(output)["maps"] == [str(pins(daemon) / "live")]
    assert json.loads(output)["tools"][0]["name"] == "stub"


def test_a_killed_trace_ends_its_tool_and_the_next_removes_its_map(
    daemon: Daemon, path: str
) -> None:
    with live_call(daemon) as (execution, number):
        with tracing(daemon, path, execution.call_id, "stub") as killed:
            killed.until_seen({number})
            killed.process.kill()
            # The pipe ends when nobody holds it any more: the tool is gone as well.
            killed.process.communicate(timeout=60)
        assert len(maps_of_single_calls(daemon)) == 1
        with tracing(daemon, path, execution.call_id, "stub") as one:
            one.until_seen({number})
            assert len(maps_of_single_calls(daemon)) == 1
            one.process.send_signal(signal.SIGINT)
            # Nobody sent it to the tool, as a terminal would: it is ended all the same.
            one.end()
        assert maps_of_single_calls(daemon) == []


def test_a_killed_daemon_ends_tools_and_the_next_one_sees_no_stale_rows(path: str) -> None:
    with running_daemon() as daemon:
        execution = daemon.client.execute(["sleep", "600"], profile="base")
        call_id = execution.call_id
        with (
            tracing(daemon, path, call_id, "stub") as one,
            tracing(daemon, path, "--all", "stub") as every,
            tracing(daemon, path, call_id, "stub") as killed,
        ):
            seen = {int(number) for number in one.line("seen")}
            assert len(seen) == 1
            every.until_seen(seen)
            killed.until_seen(seen)
            killed.process.kill()
            daemon.kill()
            for each in (one, every):
                code, _, errors = each.end()
                assert (code, "the daemon has ended" in errors) == (0, True)
        daemon.start()
        assert maps_of_single_calls(daemon) == []
        with tracing(daemon, path, "--all", "stub") as every:
            assert every.line("seen") == []
            os.kill(every.process.pid, signal.SIGTERM)
            every.end()
