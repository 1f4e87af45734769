"""The guard, inside a virtual machine whose kernel has BPF LSM.

It puts a fence on a cgroup of its own, as `tests/unit/bpf` does, and attacks from there as root,
with every capability and no seccomp filter: what works until the call is guarded and not afterwards
is denied by the guard, and by nothing else. Attacks from real sandboxes: guest_guarded.py.
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
from supervisor.bpf.watch import Watch
from tests.unit.bpf.real import Ground, ground
from tests.vm.guard_attacks import ATTACKS, TOLD, all_of, program

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
