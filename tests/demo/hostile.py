"""The hostile half: each attack once on the host where that harms nothing, once in a sandbox.

An attack counts as held only if it worked unconfined (or there is a reason not to try), failed or
was bounded in the sandbox, and the record says so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.call import outcome
from supervisor.client import Supervisor
from tests.demo.evidence import Evidence, Fell, expect

ATTACKS = Path(__file__).parent / "attacks"
SYSTEM_PYTHON = "/usr/bin/python3"
WITH_PEER = Path(__file__).parent / "with_peer.py"
CONTROL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CONTROL_TIMEOUT_S = 30
BOMB_TIMEOUT_S = 3.0
PTRACE_ATTACH = 16
CLONE_NEWNS_AND_NEWUSER = 0x10020000
SEEN_PIDS_MAX = 4
TEST_NET = "203.0.113.9"  # RFC 5737: nobody's
PEER = ("unshare", "--net", SYSTEM_PYTHON, WITH_PEER, TEST_NET, "443")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An attack: its program, and what must be true of the call.

    `worked` judges the exit code of the run on the host, which `inside` may wrap in a namespace
    where it harms nothing; where `worked` is None the attack is not tried there: `why_not`.
    """

    name: str
    title: str
    held: Callable[[Evidence], None]
    arguments: tuple[str, ...] = ()
    worked: Callable[[int], bool] | None = None
    inside: tuple[str | Path, ...] = ()
    why_not: str = ""
    timeout_s: float | None = None
    profile: str = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of an attack."""

    title: str
    unconfined: str
    confined: str
    record: str
    call_id: str
    held: bool


def attack(client: Supervisor) -> Iterator[Verdict]:
    """Try every attack."""
    with canary() as (port, visits), sentinel() as alive:
        for one in attacks(port, visits, alive):
            yield _try(client, one)


def attacks(port: int, visits: list[str], alive: Callable[[], bool]) -> tuple[Attack, ...]:
    """Give the attacks; a listener on the host's loopback notes whom it accepts in `visits`, and
    `alive` says whether a process on the host still lives."""
    mark = f"stockade-demo-{secrets.token_hex(8)}"

    def unreached(evidence: Evidence) -> None:
        evidence.exited(1)
        expect(visits == ["host"], "the sandbox reached the host's loopback")
        expect("refused" in evidence.last_error().lower(), f"it said: {evidence.last_error()}")
        evidence.say(evidence.last_error())

    def orphan_is_gone(evidence: Evidence) -> None:
        evidence.exited(0)
        expect(mark.encode() in evidence.stdout, "the orphan never ran")
        expect(not processes_with(mark), "the orphan outlived its call")
        evidence.say("its output is on record; no process is left")

    def others_live(evidence: Evidence) -> None:
        evidence.exited(0, 1)
        seen = evidence.stdout.decode().strip("[]\n").split(",")
        expect(1 <= len(seen) <= SEEN_PIDS_MAX, f"the sandbox sees {len(seen)} processes")
        expect(alive(), "a process of the host is gone")
        evidence.say(f"it saw {len(seen)} processes, all of its own call")

    return (
        *WALLS,
        Attack(
            name="connect", title="connect to the host's loopback", profile="sockets",
            arguments=("127.0.0.1", str(port)), held=unreached, worked=succeeded,
        ),
        *LIMITS,
        Attack(
            name="orphan", title="leave a daemon behind", arguments=(mark,), held=orphan_is_gone,
            worked=lambda code: code == 0 and _reap(mark) == 1,
        ),
        Attack(
            name="kill_all", title="kill every process", held=others_live,
            why_not="it would bring this host down",
        ),
    )  # fmt: skip


def succeeded(code: int) -> bool:
    """Say whether a program ended with 0."""
    return code == 0


def no_shadow(evidence: Evidence) -> None:
    """Not a line of the host's file came out."""
    evidence.exited(1)
    secret = [line for line in Path("/etc/shadow").read_bytes().splitlines() if line]
    output = evidence.stdout + evidence.stderr
    expect(not any(line in output for line in secret), "the host's /etc/shadow was read")
    evidence.say(evidence.last_error())


def no_way_out(evidence: Evidence) -> None:
    """The fence denied it at once."""
    evidence.exited(1)
    expect("not permitted" in evidence.last_error().lower(), f"it said: {evidence.last_error()}")
    evidence.denied_network()


def bomb_is_bounded(evidence: Evidence) -> None:
    """The number of processes was bounded, and all of them were killed in the end."""
    evidence.denied_limit("pids")
    how = evidence.outcome
    expect(
        isinstance(how, outcome.TimedOut | outcome.LimitExceeded | outcome.OutOfMemory),
        f"the bomb ended by itself: {how}",
    )
    evidence.say(f"then {outcome.kind(how)}")


def memory_is_bounded(evidence: Evidence) -> None:
    """The OOM killer struck at the profile's limit."""
    how = evidence.outcome
    expect(isinstance(how, outcome.OutOfMemory), f"expected out of memory, not {how}")
    assert isinstance(how, outcome.OutOfMemory)
    expect(0 < how.limit_bytes < 4 << 30, f"no limit: {how}")
    evidence.say(f"out of memory: {how.peak_bytes} bytes used, {how.limit_bytes} allowed")


def output_is_bounded(evidence: Evidence) -> None:
    """The call was killed at the limit, and the digest covers all that came."""
    how = evidence.outcome
    expect(
        isinstance(how, outcome.LimitExceeded) and how.limit is outcome.LimitKind.OUTPUT,
        f"expected the output limit, not {how}",
    )
    assert isinstance(how, outcome.LimitExceeded)
    expect(how.allowed < 1000 << 20 and how.used >= how.allowed, f"no bound: {how}")
    evidence.say(f"output: {how.used} bytes used, {how.allowed} allowed")


def _denied(evidence: Evidence, syscall: str, *arguments: int) -> None:
    evidence.exited(1)
    evidence.denied_syscall(syscall, *arguments)


WALLS = (
    Attack(
        name="shadow", title="read /etc/shadow", held=no_shadow, worked=succeeded,
    ),
    Attack(
        name="unshare", title="make namespaces (unshare)", worked=succeeded,
        held=lambda e: _denied(e, "unshare", CLONE_NEWNS_AND_NEWUSER),
    ),
    Attack(
        name="remount", title="mount over /usr", worked=succeeded, inside=("unshare", "--mount"),
        held=lambda e: _denied(e, "mount"),
    ),
    Attack(
        name="ptrace", title="take over a process (ptrace)", worked=succeeded,
        held=lambda e: _denied(e, "ptrace", PTRACE_ATTACH),
    ),
    Attack(
        name="raw_socket", title="open a raw socket", worked=succeeded, profile="sockets",
        held=lambda e: _denied(e, "socket", socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC),
    ),
    Attack(
        name="connect", title="connect out, without the right to any socket",
        arguments=(TEST_NET, "443"), worked=succeeded, inside=PEER,
        held=lambda e: _denied(e, "socket", socket.AF_INET),
    ),
    Attack(
        name="connect", title=f"connect out, with sockets ({TEST_NET}:443)", profile="sockets",
        arguments=(TEST_NET, "443"), worked=succeeded, inside=PEER, held=no_way_out,
    ),
)  # fmt: skip

LIMITS = (
    Attack(
        name="fork_bomb", title="fork bomb", held=bomb_is_bounded, timeout_s=BOMB_TIMEOUT_S,
        why_not="it would bring this host down",
    ),
    Attack(
        name="memory_hog", title="take all memory", held=memory_is_bounded,
        why_not="it would bring this host down",
    ),
    Attack(
        name="flood", title="write 1 GB to stdout", held=output_is_bounded, worked=succeeded,
    ),
)  # fmt: skip


def _try(client: Supervisor, one: Attack) -> Verdict:
    """Run an attack on the host, where it harms nothing, and in a sandbox."""
    script = ATTACKS / f"{one.name}.py"
    unconfined, call_id = f"not tried: {one.why_not}", ""
    evidence: Evidence | None = None
    try:
        if one.worked is not None:
            expect(one.worked(_control(one, script)), "it does not work unconfined")
            unconfined = "works"
        call = client.run(
            ["python3", script.name, *one.arguments],
            profile=one.profile, files={script.name: script}, timeout=one.timeout_s, agent="demo",
        )  # fmt: skip
        call_id = call.call_id
        evidence = Evidence.of(client, call)
        one.held(evidence)
    except Fell as failure:
        shown = f"{failure}; stderr: {evidence.last_error()}" if evidence else str(failure)
        return Verdict(
            title=one.title, unconfined=unconfined, confined="FELL", record=shown,
            call_id=call_id, held=False,
        )  # fmt: skip
    return Verdict(
        title=one.title, unconfined=unconfined, confined="held",
        record="; ".join(evidence.lines), call_id=call_id, held=True,
    )  # fmt: skip


def _control(one: Attack, script: Path) -> int:
    """Run the attack on the host and give its exit code; nobody reads what it writes."""
    return subprocess.run(
        [*one.inside, SYSTEM_PYTHON, script, *one.arguments],
        check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, timeout=CONTROL_TIMEOUT_S, env={"PATH": CONTROL_PATH},
    ).returncode  # fmt: skip


@contextlib.contextmanager
def canary() -> Iterator[tuple[int, list[str]]]:
    """Listen on the host's loopback and note who was let in: a visit is known by its peer."""
    visits: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()
                    visits.append("host")

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], visits
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def sentinel() -> Iterator[Callable[[], bool]]:
    """Keep a process alive on the host that `kill(-1)` of a sandbox must not reach."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        try:
            yield lambda: process.poll() is None
        finally:
            process.kill()


def processes_with(mark: str) -> list[int]:
    """Give the processes of this host that have `mark` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _reap(mark: str) -> int:
    """Kill what the orphan's run on the host left, and say how many that was."""
    orphans = processes_with(mark)
    for pid in orphans:
        os.kill(pid, 9)
    return len(orphans)
