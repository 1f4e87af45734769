"""What runs inside a virtual machine: a call in crun keeps every promise that one in runc does.

crun wants cgroups of version 2 alone, which a development machine may not have: its only real tests
are these. What guest.py asks of runc is asked of crun here; where both are compared, of both. What
a killed daemon leaves of either is asked there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest

from supervisor.call.events import Processes, ProgramStarted
from supervisor.call.outcome import Exited, LimitKind, OutOfMemory, Stopped
from supervisor.client import Execution, FinishedCall, Supervisor, Terminal
from tests.support.following import end_of, is_started, until
from tests.vm.service import cgroups

CRUN = "crun"
RUNTIMES = ("runc", CRUN)
both = pytest.mark.parametrize("runtime", RUNTIMES)
log = logging.getLogger(__name__)

LOOK = """
import ctypes, os, socket
print(os.getuid(), os.umask(0o077), sorted(os.environ), os.getcwd())
print(sorted(os.listdir("/proc/self/fd")))
print(open("/proc/self/cgroup").read(), open("/proc/self/mountinfo").read().count("\\n"))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print([status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Groups")])
print(ctypes.CDLL(None).unshare(0x10000000))
try:
    socket.create_connection(("203.0.113.9", 443), 2)
except OSError as error:
    print(error.errno)
open("out", "w").write("kept")
"""
FORKS = "import os, time\nfor _ in range(64):\n  os.fork() or time.sleep(100)\n"


def python(client: Supervisor, runtime: str, code: str, **more: object) -> FinishedCall:
    call = client.run(["python3", "-c", code], profile=runtime, **more)  # type: ignore[arg-type]
    assert cgroups() == []
    return call


@contextlib.contextmanager
def sleeping(client: Supervisor, runtime: str) -> Iterator[Execution]:
    """Have a call that sleeps, once it runs."""
    with client.execute(["sleep", "600"], profile=runtime) as execution:
        until(execution, is_started)
        yield execution


def programs_of(client: Supervisor, call: FinishedCall) -> list[ProgramStarted]:
    """List what was started, as the record has it."""
    events = [one.event for one in client.attach(call.call_id)]
    told = [event for event in events if isinstance(event, Processes)]
    return [one for event in told for one in event.events if isinstance(one, ProgramStarted)]


def test_a_program_sees_the_same_sandbox(client: Supervisor) -> None:
    seen = {}
    for runtime in RUNTIMES:
        call = python(client, runtime, LOOK, outputs=["out"])
        assert call.outcome == Exited(code=0), call.stderr
        assert call.outputs["out"] == b"kept"
        [intent] = [one for one in client.record(call.call_id).entries if one.kind == "intent"]
        named = f'"runtime": "{runtime} version'.replace(" ", "").encode()
        assert named in intent.json.replace(b" ", b"")
        log.info("%s: %s %s", runtime, call.stdout.decode(), call.denials)
        seen[runtime] = (
            call.stdout,
            [(one.name, one.detail, one.count) for one in call.denials],
            [one.path for one in programs_of(client, call)],
        )
    assert seen[CRUN] == seen["runc"]


def test_limits(client: Supervisor) -> None:
    assert isinstance(python(client, CRUN, "x = bytearray(1 << 30)").outcome, OutOfMemory)
    assert python(client, CRUN, FORKS).denials[0].name == LimitKind.PIDS.value
    with sleeping(client, CRUN) as execution:
        (folder,) = cgroups()
        names = ("memory.max", "memory.swap.max", "pids.max")
        values = [(folder / name).read_text().strip() for name in names]
        assert values == [str(64 << 20), "0", "16"]
        execution.cancel()
        assert isinstance(end_of(execution).outcome, Stopped)


@both
def test_input_output_and_exit_codes(client: Supervisor, runtime: str) -> None:
    call = client.run(
        ["sh", "-c", "cat; echo error >&2; exit 7"], profile=runtime, stdin=b"in" * 100_000
    )
    assert (call.outcome, call.stdout, call.stderr) == (
        Exited(code=7), b"in" * 100_000, b"error\n",
    )  # fmt: skip


def test_many_at_once(client: Supervisor) -> None:
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(client.execute(["cat"], profile=CRUN, stdin=b"%d" % number))
            for number in range(8)
        ]
        ends = [end_of(one) for one in running]
    assert [end.outcome for end in ends] == [Exited(code=0)] * 8


@pytest.mark.parametrize("profile", ["terminal", "terminal-in-crun"])
def test_a_terminal(client: Supervisor, profile: str) -> None:
    """Of a mount of the sandbox's own, ours before anything runs, and open to its user alone."""
    terminal = Terminal(rows=30, columns=100)
    script = "tty; stty size; stat -c '%u %a' /dev/pts/0; ls /dev/pts; : >/dev/tty; read x; exit $x"
    call = client.run(["sh", "-c", script], profile=profile, terminal=terminal, stdin=b"7\n")
    assert call.outcome == Exited(code=7)
    typed, tty, size, owner, *rest = call.stdout.decode().replace("\r", "").splitlines()
    assert (typed, tty, size, owner) == ("7", "/dev/pts/0", "30 100", "1000 620")
    assert " ".join(rest).split() == ["0", "ptmx"]
