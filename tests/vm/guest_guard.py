"""The guard, inside a virtual machine whose kernel has BPF LSM.

Two kinds of tests. The first puts a fence on a cgroup of its own, as `tests/unit/bpf` does, and
attacks from there as root, with every capability and no seccomp filter: what works until the call
is guarded and not afterwards is denied by the guard, and by nothing else. The second runs a daemon,
and attacks from real sandboxes: what is on record counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.bpf import pins
from supervisor.bpf.fence import Fence
from supervisor.bpf.guard import GUARD_PROGRAMS
from supervisor.bpf.watch import Watch
from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import Exited, Failed, Interrupted
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon
from tests.support.following import end_of, is_started, until, wait_for
from tests.support.images import make_layout, make_root
from tests.support.profiles import with_profiles
from tests.unit.bpf.real import Ground, ground
from tests.vm.guard_attacks import ATTACKS, LOADER, TOLD, all_of, program

PYTHON = "/usr/bin/python3"
WORK = Path("/work")
EPERM, EACCES, ENOMEM, NOT_MAPPED = 1, 13, 12, 127
DENIED_WITH = dict.fromkeys(ATTACKS, EPERM) | {
    "loader": NOT_MAPPED,  # what the loader itself ends with
    "new file system": ENOMEM,  # alloc_super() knows no other error
    "read": EACCES,  # what proc makes of it
}
ALLOWED = {"exec": 0, "loader": 0, "mprotect": 0, "memfd": EPERM}
"""Where the profile says that programs run from /work."""

PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
BPFTOOL = "/usr/sbin/bpftool"
START_S = 120.0
"""Without KVM, and with the host's processors shared."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """What came of the attacks: what each printed, and what was told, as (name, detail)."""

    before: dict[str, int] = field(default_factory=dict)
    guarded: dict[str, int] = field(default_factory=dict)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    allowed: dict[str, int] = field(default_factory=dict)
    disguised: int = 0
    strangers: dict[str, tuple[int, int]] = field(default_factory=dict)
    other: int = 0


def attack(cgroup: Path, code: str, prepare: str = "") -> str:
    """Run it in a cgroup, with a read-only root in mounts of its own; give what it printed."""
    enter = f"mount -o remount,bind,ro / && {prepare} echo $$ >{cgroup}/cgroup.procs"
    script = f'{enter} && exec {PYTHON} -c "$0"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, code]
    done = subprocess.run(command, check=False, capture_output=True, env=PATH, timeout=60)
    assert done.returncode == 0, done
    return done.stdout.decode()


def attacks(cgroup: Path, names: Sequence[str], other: int) -> dict[str, int]:
    """Run these attacks; give what each printed."""
    printed = attack(cgroup, all_of(names, str(WORK), other))
    return {name: int(number) for name, _, number in map(_parts, printed.splitlines())}


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition("=")


@contextlib.contextmanager
def work() -> Iterator[tuple[int, bool]]:
    """Mount what a call can write, and programs run from; give its device."""
    WORK.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", WORK], check=True)
    try:
        yield WORK.stat().st_dev, False
    finally:
        subprocess.run(["umount", "--lazy", WORK], check=True)


@contextlib.contextmanager
def other_call(here: Ground) -> Iterator[tuple[int, int]]:
    """Have a process in a cgroup beside the call's; give its id, and the cgroup's."""
    folder = here.places.cgroup / "other"
    folder.mkdir()
    process = subprocess.Popen(["sleep", "600"])
    try:
        (folder / "cgroup.procs").write_text(str(process.pid))
        yield process.pid, folder.stat().st_ino
    finally:
        process.kill()
        process.wait()
        folder.rmdir()


def strangers(fence: Fence) -> dict[str, tuple[int, int]]:
    """Reach for what is ours, from the host and from a foreign pid namespace; give both codes."""
    link = next(one for one in fence._links if one.name == "watch_exec")
    number, prog = pins.object_ids(link.fd)
    calls, _ = pins.object_ids(fence.calls.fd)
    commands = {
        "map by id": ["map", "dump", "id", str(calls)],
        "program by id": ["prog", "dump", "xlated", "id", str(prog)],
        "link by id": ["link", "show", "id", str(number)],
        "map by pin": ["map", "dump", "pinned", str(link.path.parent.parent / "maps/calls")],
        # Last: on the host it works. A cgroup's link is one that can be detached.
        "detach": ["link", "detach", "pinned", str(link.path.parent / "fence_bind6")],
    }
    found = {}
    for name, command in commands.items():
        codes = []
        for prefix in (["unshare", "--pid", "--fork"], []):
            done = subprocess.run(
                [*prefix, BPFTOOL, *command], check=False, capture_output=True, env=PATH
            )
            log.info("%s %s: %s", prefix, command, done.stdout + done.stderr)
            codes.append(done.returncode)
        found[name] = codes[1], codes[0]
    return found


async def watch_attacks(here: Ground, fence: Fence, seen: Seen, device: int) -> None:
    watch = await fence.watch(here.call_id)
    cgroup = here.call.unified
    with other_call(here) as (seen.other, other_id):
        neighbour = await fence.watch(other_id)
        seen.before = await asyncio.to_thread(attacks, cgroup, list(ATTACKS), seen.other)
        assert fence.arm(here.call_id, [(device, False)])
        collect(watch, seen)
        seen.guarded = await asyncio.to_thread(attacks, cgroup, list(ATTACKS), seen.other)
        again = program("exec").replace("copy(FOLDER)", "'/work/copied'")
        ro = f"mount -o remount,bind,ro {WORK} &&"
        seen.disguised = int(await asyncio.to_thread(attack, cgroup, again, ro))
        watch.finish()
        neighbour.close()
    watch.close()
    # Another call in the same place, whose profile lets it run what it writes.
    watch = await fence.watch(here.call_id)
    assert fence.arm(here.call_id, [(device, True)])
    seen.allowed = await asyncio.to_thread(attacks, cgroup, list(ALLOWED), seen.other)
    watch.close()


def collect(watch: Watch, seen: Seen) -> None:
    def fail(error: Exception) -> None:
        raise error

    def take(told: object) -> None:
        for denial in told.denials:  # type: ignore[attr-defined]
            seen.told[denial.refused.name, denial.refused.detail] += denial.count

    watch.tell(take, fail)


@pytest.fixture(scope="module")
def seen() -> Seen:
    log.info("kernel %s", os.uname().release)
    found = Seen()

    async def main() -> None:
        with ground() as here, work() as (device, _):
            fence = Fence(here.places)
            fence.open()
            try:
                assert fence.guard.standing, fence.guard.why
                await watch_attacks(here, fence, found, device)
                found.strangers = strangers(fence)
            finally:
                fence.close()

    asyncio.run(main())
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_what_works_until_the_call_is_guarded_is_denied_and_told(seen: Seen, name: str) -> None:
    assert seen.before[name] == 0
    assert seen.guarded[name] == DENIED_WITH[name]
    what, detail = TOLD[name]
    assert seen.told[what, detail.format(other=seen.other)] >= 1


def test_nothing_else_was_denied(seen: Seen) -> None:
    expected = {(what, detail.format(other=seen.other)) for what, detail in TOLD.values()}
    assert set(seen.told) == expected


def test_a_writable_mount_that_is_made_read_only_gains_nothing(seen: Seen) -> None:
    assert seen.disguised == EPERM


def test_a_profile_may_let_programs_run_from_one_mount_alone(seen: Seen) -> None:
    assert seen.allowed == ALLOWED


@pytest.mark.parametrize(
    "what", ["map by id", "program by id", "link by id", "map by pin", "detach"]
)
def test_a_stranger_reaches_nothing_of_ours(seen: Seen, what: str) -> None:
    host, stranger = seen.strangers[what]
    assert host == 0
    assert stranger != 0


MEMFD = """require: [guard]
syscalls:
  allow: [{name: memfd_create, why: A test of the wall behind.}]
"""
GUARDED = "require: [guard]\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    profiles = tmp_path_factory.mktemp("profiles")
    state = tmp_path_factory.mktemp("state")
    texts = {"guarded": GUARDED, "memory": MEMFD, "in-crun": f"{GUARDED}runtime: crun\n"}
    config = with_profiles(profiles, **texts)
    with Daemon(state, config=config) as one:
        layout = make_layout(make_root(profiles / "image"), profiles / "layout")
        done = one.command("image", "import", str(layout), "tiny", "--state", str(one.state))
        with_profiles(profiles, image=GUARDED + done.stdout.decode())
        one.start(wait=False)
        one.wait_until_serving(START_S)
        yield one
        assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


def sandboxed(daemon: Daemon, name: str, folder: str = "/work", **more: str) -> FinishedCall:
    profile = more.get("profile", "guarded")
    return daemon.client.run(["python3", "-c", program(name, folder)], profile=profile)


def told(call: FinishedCall) -> list[tuple[Wall, str, str, int]]:
    return [(one.wall, one.name, one.detail, one.count) for one in call.denials]


@pytest.mark.parametrize(
    ("attack", "folder"),
    [("exec", "/work"), ("exec", "/tmp"), ("exec", "/dev/shm"), ("high bits", "/work")],
)
def test_a_program_that_is_written_does_not_run(daemon: Daemon, attack: str, folder: str) -> None:
    call = sandboxed(daemon, attack, folder)
    assert call.stdout == b"%d\n" % EACCES
    assert told(call) == [(Wall.PROGRAM, "exec", f"{folder}/copied: a noexec mount", 1)]
    [denied] = call.denials
    assert denied.rule == "programs: from the read-only image only"
    assert denied.program == b"python3"


@pytest.mark.parametrize(
    ("folder", "profile"), [("/work", "guarded"), ("/tmp", "guarded"), ("/work", "in-crun")]
)
def test_the_loader_does_not_run_it(daemon: Daemon, folder: str, profile: str) -> None:
    call = sandboxed(daemon, "loader", folder, profile=profile)
    assert call.stdout == b"%d\n" % NOT_MAPPED
    assert told(call) == [(Wall.PROGRAM, "mmap", f"{folder}/copied", 1)]


def test_the_loader_runs_what_is_of_the_image(daemon: Daemon) -> None:
    call = daemon.client.run([LOADER, "/usr/bin/true"], profile="guarded")
    assert (call.outcome, call.denials) == (Exited(code=0), ())


def test_a_program_in_memory_does_not_run(daemon: Daemon) -> None:
    call = sandboxed(daemon, "memfd", profile="memory")
    assert call.stdout == b"%d\n" % EPERM
    assert told(call) == [(Wall.PROGRAM, "exec", "memfd:hidden: a file in memory", 1)]


def test_a_flood_is_folded_and_complete(daemon: Daemon) -> None:
    rounds = 300
    code = program("exec").replace("print(run(copy(FOLDER)))", "path = copy(FOLDER)\n")
    code += f"for _ in range({rounds}):\n  run(path)\n"
    call = daemon.client.run(["python3", "-c", code], profile="guarded")
    assert {(one.name, one.detail) for one in call.denials} == {
        ("exec", "/work/copied: a noexec mount")
    }
    assert sum(one.count for one in call.denials) == rounds
    assert len(call.denials) < rounds / 2


def test_what_is_on_record_is_shown(daemon: Daemon) -> None:
    call = sandboxed(daemon, "loader")
    shown = daemon.command("audit", "show", call.call_id).stdout.decode()
    assert "mmap(/work/copied)" in shown


HONEST = {
    "python": ["python3", "-c", "import ssl, sqlite3, ctypes; print('done')"],
    "shell": ["sh", "-c", "echo done | sed 's/x/y/' | awk '{ print $1 }'"],
    "node": ["node", "-e", "for (let i = 0; i < 1e5; i++) Math.sqrt(i); console.log('done')"],
}


@pytest.mark.parametrize("profile", HONEST)
def test_honest_work_runs(daemon: Daemon, profile: str) -> None:
    call = daemon.client.run(HONEST[profile], profile=profile)
    assert (call.stdout, call.outcome, told(call)) == (b"done\n", Exited(code=0), []), call.stderr


def test_programs_of_an_image_run(daemon: Daemon) -> None:
    """It is an overlay: its files are mapped through it, and lie elsewhere."""
    call = daemon.client.run(["/bin/hello"], profile="image")
    assert call.stdout.startswith(b"of the image\n"), call.stderr
    assert (call.outcome, told(call)) == (Exited(code=0), [])


def test_what_is_built_runs_where_the_profile_says(daemon: Daemon) -> None:
    build = "echo 'int main(void) { return 7; }' >a.c && gcc a.c && ./a.out"
    call = daemon.client.run(["sh", "-c", build], profile="build")
    assert (call.outcome, told(call)) == (Exited(code=7), []), call.stderr
    moved = f"{build}; cp a.out /tmp && /tmp/a.out"
    call = daemon.client.run(["sh", "-c", moved], profile="build")
    assert told(call) == [(Wall.PROGRAM, "exec", "/tmp/a.out: a noexec mount", 1)]


def test_the_next_daemon_takes_it_over(daemon: Daemon) -> None:
    code = f"{program('loader')}\nimport time; time.sleep(600)"
    with daemon.client.execute(["python3", "-c", code], profile="guarded") as execution:
        until(execution, lambda event: isinstance(event.event, Denied))
        daemon.kill()
    daemon.start(wait=False)
    daemon.wait_until_serving(START_S)
    assert "took over the probes" in daemon.log.read_text()
    # The kernel's counters have the canary's denials too, and know no path: they say nothing new.
    found = daemon.client.get(execution.call_id)
    assert found.finished is not None
    assert isinstance(found.finished.outcome, Interrupted)
    assert found.finished.denials == 1
    call = sandboxed(daemon, "loader")
    assert told(call) == [(Wall.PROGRAM, "mmap", "/work/copied", 1)]


def test_a_guard_that_is_taken_away_ends_calls(daemon: Daemon) -> None:
    [folder] = daemon.runtime.glob("*/bpf/v*/links")
    assert {one.name for one in folder.iterdir()} >= set(GUARD_PROGRAMS)
    with daemon.client.execute(["sleep", "600"], profile="base") as execution:
        until(execution, is_started)
        (folder / "guard_mmap").unlink()
        outcome = end_of(execution).outcome
    assert isinstance(outcome, Failed)
    assert "guard_mmap" in outcome.message
    wait_for(lambda: not daemon.serving())
    assert os.access(folder / "guard_exec", os.F_OK)
