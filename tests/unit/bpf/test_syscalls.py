"""Watched system calls on a real cgroup: each is counted, by a probe that is there when asked."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.bpf import layout, pins
from supervisor.bpf import syscalls as module
from supervisor.bpf.fence import Fence
from supervisor.bpf.libbpf import check, library
from supervisor.bpf.syscalls import FAMILY_OF_PLACE, Asked, kills, number_of
from supervisor.bpf.watch import Made, Told, Watch
from supervisor.errors import HostError
from supervisor.linux import cgroup
from supervisor.linux.cgroup import Cgroup
from tests.unit.bpf.real import Ground, fail, ground, with_fence

BPFTOOL = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
GETPPID, SOCKET, GETUID = 110, 41, 102
ROUNDS = 5000
LOOP = f"""/usr/bin/python3 -c '
import ctypes
libc = ctypes.CDLL(None)
for _ in range({ROUNDS}): libc.syscall({GETPPID}, 7, 8)
'"""
FAMILIES = """/usr/bin/python3 -S -c '
import socket
for family in (1, 1, 2, 10, 10, 10): socket.socket(family)
'"""

root = pytest.mark.root


def asked(*watch: int, kill: tuple[int, ...] = ()) -> Asked:
    return Asked(watch=frozenset(watch), kill=frozenset(kill))


def begun(watch: Watch) -> list[Made]:
    """Begin; give the list to which everything that is told will be added."""
    made: list[Made] = []
    watch.begin()
    watch.tell(lambda told: made.extend(told.watched), fail)
    return made


def counts(made: list[Made]) -> Counter[int]:
    counter: Counter[int] = Counter()
    for one in made:
        counter[one.number] += one.count
    return counter


def programs(fence: Fence) -> set[int]:
    """Give the kernel's ids of the programs that a fence has loaded to watch system calls."""
    probe = fence._syscalls._object
    assert probe is not None
    found = set()
    for _, handle in probe.programs():
        info = (ctypes.c_uint32 * 64)()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        fd = library().bpf_program__fd(handle)
        check(library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)), "info")
        found.add(info[1])  # struct bpf_prog_info: type, id
    return found


def attached(ids: set[int]) -> int:
    """Count those of the programs that are attached, by the kernel's word."""
    assert BPFTOOL is not None, "bpftool builds the probes, so it is here"
    command = [BPFTOOL, "--json", "link", "show"]
    links = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return sum(link.get("prog_id") in ids for link in links)


def test_a_row_has_a_bit_for_each_number() -> None:
    row = asked(0, 63, 64, 511, kill=(101,)).row(layout.WATCHING_FROM_EXEC)
    assert list(row.watch) == [1 | 1 << 63, 1, 0, 0, 0, 0, 0, 1 << 63]
    assert kills(row, 101)
    assert not kills(row, 102)
    assert row.state == layout.WATCHING_FROM_EXEC


def test_every_family_has_a_counter_beyond_the_numbers() -> None:
    assert min(FAMILY_OF_PLACE) == layout.SYSCALLS_MAX
    assert max(FAMILY_OF_PLACE) == layout.PLACES_MAX - 1
    assert {number_of(place) for place in FAMILY_OF_PLACE} == {SOCKET}
    assert number_of(GETPPID) == GETPPID


@root
def test_without_being_asked_nothing_is_watched() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        assert not fence.watches_syscalls
        made = begun(watch)
        await asyncio.to_thread(here.run, LOOP)
        watch.finish()
        assert made == []
        watch.close()

    with_fence(scenario)


@root
def test_each_is_counted_and_the_first_is_told_whole() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(GETPPID))
        made = begun(watch)
        await asyncio.to_thread(here.run, LOOP)
        watch.finish()
        assert counts(made) == {GETPPID: ROUNDS}
        first = made[0]
        assert (first.count, first.program, first.arguments[:2]) == (1, b"python3", (7, 8))
        assert first.pid > 0
        assert not first.killed
        assert {(one.pid, one.arguments) for one in made[1:]} == {(0, ())}
        watch.close()

    with_fence(scenario)


@root
def test_what_the_runtime_did_before_the_first_program_is_not_the_calls() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(GETPPID, 1))
        made: list[Made] = []
        watch.tell(lambda told: made.extend(told.watched), fail)
        await asyncio.to_thread(here.run, LOOP)  # has not begun
        watch.begin()
        await asyncio.to_thread(here.run, "echo the shell writes, and starts nothing")
        watch.finish()
        assert made == []
        watch.close()

    with_fence(scenario)


@root
def test_of_a_call_whose_init_runs_already_all_is_told_at_once() -> None:
    """As crun leaves it: cell waits at its gate."""

    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(59))
        made: list[Made] = []
        watch.tell(lambda told: made.extend(told.watched), fail)
        watch.begin(at_once=True)
        await asyncio.to_thread(here.run, "/bin/true; /bin/true")
        watch.finish()
        assert counts(made) == {59: 2}
        watch.close()

    with_fence(scenario)


@root
def test_sockets_are_told_apart_by_family() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(SOCKET))
        made = begun(watch)
        await asyncio.to_thread(here.run, FAMILIES)
        watch.finish()
        families: Counter[int] = Counter()
        for one in made:
            assert one.number == SOCKET
            families[one.arguments[0]] += one.count
        assert families == {1: 2, 2: 1, 10: 3}
        watch.close()

    with_fence(scenario)


@root
def test_one_that_kills_ends_its_process() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        loop = LOOP + "; echo $?"
        watch = await fence.watch(here.call_id, asked(GETUID))
        made = begun(watch)
        assert (await asyncio.to_thread(here.run, loop)).stdout == b"0\n"
        watch.finish()
        watch.close()
        assert GETPPID not in counts(made)
        watch = await fence.watch(here.call_id, asked(kill=(GETPPID,)))
        made = begun(watch)
        assert (await asyncio.to_thread(here.run, loop)).stdout == b"%d\n" % (128 + signal.SIGKILL)
        watch.finish()
        [first] = made
        assert (first.number, first.count, first.killed) == (GETPPID, 1, True)
        watch.close()

    with_fence(scenario)


@root
def test_a_full_ring_loses_no_count() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(GETPPID))
        watch.begin()
        script = "n=0; while [ $n -lt 3000 ]; do /bin/true; n=$((n+1)); done; " + LOOP
        await asyncio.to_thread(here.run, script)
        told: list[Told] = []
        watch.tell(told.append, fail)
        watch.finish()
        assert sum(one.lost.get("exec", 0) for one in told) > 0, "the ring was not full"
        assert all("watched" not in one.lost for one in told)
        assert counts([made for one in told for made in one.watched]) == {GETPPID: ROUNDS}
        watch.close()

    with_fence(scenario)


@root
@pytest.mark.parametrize("first", [0, 1])
def test_it_is_attached_only_while_somebody_asks(first: int) -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        ids = programs(fence)
        assert attached(ids) == 0
        one = await fence.watch(here.call_id, asked(GETPPID))
        assert attached(ids) == 2
        other = await fence.watch(1, asked(GETPPID))
        leaving = [one, other]
        leaving.pop(first).close()
        assert attached(ids) == 2
        assert fence.faults() == []
        [last] = leaving
        assert last.standing()
        last.close()
        last.close()
        assert attached(ids) == 0
        assert not fence.watches_syscalls
        again = await fence.watch(here.call_id, asked(GETPPID))
        assert again.standing()
        assert attached(ids) == 2
        again.close()
        assert attached(ids) == 0

    with_fence(scenario)


@root
def test_a_flood_beside_a_quiet_call() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        quiet = Cgroup(cgroup.detect(), f"{here.call.path}-quiet")
        quiet.unified.mkdir()
        there = replace(here, call=quiet)
        try:
            loud = await fence.watch(here.call_id, asked(GETPPID))
            calm = await fence.watch(there.call_id, asked(GETUID))
            of_loud, of_calm = begun(loud), begun(calm)
            flood = LOOP.replace(str(ROUNDS), "200000")
            once = LOOP.replace(str(ROUNDS), "3").replace(str(GETPPID), str(GETUID))
            await asyncio.gather(
                asyncio.to_thread(here.run, flood), asyncio.to_thread(there.run, once)
            )
            loud.finish()
            calm.finish()
            assert counts(of_loud) == {GETPPID: 200_000}
            assert counts(of_calm)[GETUID] >= 3
            assert GETPPID not in counts(of_calm)
            loud.close()
            calm.close()
        finally:
            quiet.destroy()

    with_fence(scenario)


@root
def test_the_next_daemon_reads_what_was_counted_and_lets_the_probe_go() -> None:
    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            ids = programs(fence)
            watch = await fence.watch(here.call_id, asked(GETPPID))
            watch.begin()
            watch.take()
            fence._close_links()
            fence._syscalls.close()  # and this daemon is gone without a word
            here.run(LOOP)
            assert attached(ids) == 2
            heir = Fence(here.places)
            heir.open()
            assert heir.adopted
            assert heir.watches_syscalls
            left = heir.leftovers()[here.call_id]
            assert counts(left.watched) == {GETPPID: ROUNDS}
            assert left.watched[0].program == b"python3"
            assert not heir.watches_syscalls
            assert attached(ids) == 0
            heir.close()

    asyncio.run(scenario())


@root
@pytest.mark.parametrize("name", module.PROGRAMS)
def test_a_pin_that_is_gone_is_named_while_it_is_asked_for(name: str) -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(GETPPID))
        (here.places.pins / here.places.version() / "links" / name).unlink()
        assert fence.faults() == fence.pin_faults() == [f"fence: {name} is no longer pinned"]
        watch.close()
        assert fence.faults() == []

    with_fence(scenario)


@root
def test_a_call_whose_probe_is_not_there_does_not_stand() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id, asked(GETPPID))
        assert watch.standing()
        fence.watched.delete(ctypes.c_uint64(here.call_id))
        assert not watch.standing()
        with pytest.raises(FileNotFoundError):
            watch.begin()
        watch.close()

    with_fence(scenario)


@root
def test_a_probe_that_cannot_be_pinned_keeps_the_call_out() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        ids = programs(fence)
        links: Path = here.places.pins / here.places.version() / "links"
        pins.pin_map(fence.calls.fd, links / "watch_first_exec")
        with pytest.raises(HostError) as caught:
            await fence.watch(here.call_id, asked(GETPPID))
        assert caught.value.reason == "WALL_NOT_STANDING"
        assert attached(ids) == 0
        watch = await fence.watch(here.call_id, asked(GETPPID))
        assert watch.standing()
        watch.close()

    with_fence(scenario)


@root
def test_a_kernel_that_refuses_it_is_found_when_the_fence_is_opened(tmp_path: Path) -> None:
    with ground() as here:
        for path in here.places.objects.glob("*.bpf.o"):
            shutil.copy(path, tmp_path)
        (tmp_path / "syscalls.bpf.o").write_bytes(b"no object")
        with pytest.raises(HostError) as caught:
            Fence(replace(here.places, objects=tmp_path)).open()
        assert caught.value.reason == "PROBE_UNLOADABLE"
        assert "syscalls" in caught.value.message


@root
def test_a_call_that_is_given_up_while_it_asks_leaves_nothing_attached() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        ids = programs(fence)
        for _ in range(3):
            for wait_s in (0, 0, 0.001):
                task = asyncio.ensure_future(fence.watch(here.call_id, asked(GETPPID)))
                await asyncio.sleep(wait_s)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await task).close()
                # What the thread still does, it does in vain.
                await asyncio.to_thread(lambda: None)
        while attached(ids):
            await asyncio.sleep(0.01)
        watch = await fence.watch(here.call_id, asked(GETPPID))
        assert watch.standing()
        watch.close()
        assert attached(ids) == 0

    with_fence(scenario)
