"""The guard's own decisions, and what becomes of it on a kernel that refuses it or does not run it.

Where a kernel has BPF LSM it is tried for real: tests/vm/guest_guard.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from supervisor.bpf import guard as guard_module
from supervisor.bpf import layout
from supervisor.bpf.decode import ExecRecord
from supervisor.bpf.fence import Fence
from supervisor.bpf.guard import (
    ATTEMPTS,
    GUARD,
    GUARD_MAPS,
    GUARD_PROGRAMS,
    TRIED,
    Guard,
    GuardState,
    canary_fault,
    kernel_device,
    refused_by_kernel,
    skipped_by_kernel,
    untold,
)
from supervisor.bpf.maps import BpfMap, make_hash
from supervisor.bpf.objects import ProbeObject
from supervisor.errors import HostError
from supervisor.sandbox.places import find_probes
from tests.style.tree import ROOT
from tests.unit.bpf.real import ground


class Uname(NamedTuple):
    release: str
    version: str


DYNAMIC = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"


def standing(tmp_path: Path) -> Guard:
    """Give a guard that believes to stand, with maps and without programs."""
    one = Guard(find_probes() / "guard.bpf.o", tmp_path, 2)
    one.state = GuardState(standing=True)
    row, ours = ctypes.sizeof(layout.GuardRow), ctypes.sizeof(layout.Ours)
    one._guards = BpfMap(
        make_hash("guards", 8, row, 8, 0), ctypes.c_uint64, layout.GuardRow, "guards"
    )
    one._ours = BpfMap(make_hash("ours", ours, 4, 8, 0), layout.Ours, ctypes.c_uint32, "ours")
    return one


def test_what_the_canary_says() -> None:
    assert canary_fault(0) == canary_fault(1) == canary_fault(10 + len(ATTEMPTS)) == ""
    assert canary_fault(10) == "running a program in memory is not denied"
    assert canary_fault(17) == "bpf(2) is not denied"


def test_the_canary_tries_them_in_this_order() -> None:
    source = (ROOT / "cell/canary.c").read_text()
    table = source[source.index("} attempts[] = {") :].partition("};")[0]
    assert table.count("{") - 1 == len(ATTEMPTS) == sum(TRIED.values())


def test_what_was_not_told() -> None:
    told = [name for name, count in TRIED.items() for _ in range(count)]
    assert untold(told) == []
    told.remove("exec")
    assert untold(told) == ["exec"]
    assert untold([]) == list(TRIED)


@pytest.mark.parametrize(
    ("release", "version", "command_line", "skips"),
    [
        ("6.1.0-56-cloud-amd64", DYNAMIC, "quiet", False),
        ("6.1.0-56-cloud-amd64", DYNAMIC, "preempt=full quiet", True),
        ("6.1.0-rt", "#1 SMP PREEMPT_RT Debian", "", True),
        ("6.1.9", "#1 SMP PREEMPT somewhere", "", True),
        ("6.2.0", "#1 SMP PREEMPT somewhere", "preempt=full", False),
        ("7.0", "#1 SMP PREEMPT_RT", "", False),
    ],
)
def test_a_kernel_that_leaves_programs_out(
    monkeypatch: pytest.MonkeyPatch, release: str, version: str, command_line: str, skips: bool
) -> None:
    monkeypatch.setattr(guard_module.os, "uname", lambda: Uname(release, version))
    monkeypatch.setattr(Path, "read_text", lambda _: command_line)
    assert bool(skipped_by_kernel()) is skips


def test_devices_as_the_kernel_has_them() -> None:
    assert kernel_device(os.makedev(0, 45)) == 45
    assert kernel_device(os.makedev(8, 300)) == (8 << 20) + 300


def test_the_object_has_every_program_and_map() -> None:
    with ProbeObject(find_probes() / f"{GUARD}.bpf.o") as one:
        assert sorted(name for name, _ in one.programs()) == sorted(GUARD_PROGRAMS)
        assert set(one.map_fds()) >= set(GUARD_MAPS)


@pytest.mark.root
def test_where_it_does_not_stand_the_fence_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "skipped_by_kernel", lambda: "this kernel is no good")
    with ground() as here:
        fence = Fence(here.places)
        fence.open()
        assert fence.guard == GuardState(standing=False, why="this kernel is no good")
        assert fence.faults() == fence.pin_faults() == []
        assert fence.arm(here.call_id, [(1, True)]) is False
        folder = here.places.pins / here.places.version()
        assert not {one.name for one in (folder / "links").iterdir()} & set(GUARD_PROGRAMS)
        assert not {one.name for one in (folder / "maps").iterdir()} & set(GUARD_MAPS)
        fence.close()


@pytest.mark.root
def test_a_kernel_without_the_programs_is_named() -> None:
    with ground() as here:
        fence = Fence(here.places)
        fence.open()
        assert fence.guard.standing or fence.guard.why
        assert not (refused_by_kernel() and fence.guard.standing)
        fence.close()


@pytest.mark.root
def test_an_object_that_cannot_be_loaded_is_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the kernel refuses it; the fence says why, and stands."""
    monkeypatch.setattr(guard_module, "refused_by_kernel", lambda: "")
    with ground() as here:
        fence = Fence(here.places)
        fence._guard._path = here.places.object("egress").with_name("none.bpf.o")
        fence.open()
        assert not fence.guard.standing
        assert "none.bpf.o" in fence.guard.why
        assert fence.faults() == []
        fence.close()


@pytest.mark.root
def test_what_is_attached_and_denies_nothing_does_not_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where bpf is not among the security modules: the canary gets through."""

    def attached(self: Guard, shared: object, links: object) -> None:
        self.__dict__.update(standing(here.places.pins).__dict__)

    monkeypatch.setattr(Guard, "open", attached)
    with ground() as here:
        fence = Fence(here.places)
        fence.open()
        assert not fence.guard.standing
        assert "running a program in memory is not denied" in fence.guard.why
        assert [one for one in here.places.cgroup.iterdir() if "trial" in one.name] == []
        assert list(fence.calls.all_keys()) == []
        assert list(fence.folded.all_keys()) == []
        fence.close()


@pytest.mark.root
def test_a_call_is_armed_and_forgotten(tmp_path: Path) -> None:
    one = standing(tmp_path)
    assert one.arm(7, [(os.makedev(0, 45), True), (os.makedev(0, 46), False)])
    row = one._guards.get(ctypes.c_uint64(7))
    assert row is not None
    assert (row.armed, row.count) == (1, 2)
    assert [(row.mounts[n].device, row.mounts[n].exec) for n in range(2)] == [(45, 1), (46, 0)]
    one.disarm(7)
    assert one._guards.get(ctypes.c_uint64(7)) is None
    one.arm(8, [])
    one.disarm_all()
    assert list(one._guards.all_keys()) == []


@pytest.mark.root
def test_a_call_that_cannot_be_guarded_does_not_start(tmp_path: Path) -> None:
    one = standing(tmp_path)
    one.arm(7, [])
    with pytest.raises(HostError) as caught:
        one.arm(7, [])
    assert caught.value.reason == "WALL_NOT_STANDING"
    with pytest.raises(HostError) as caught:
        one.arm(9, [(number, False) for number in range(layout.MOUNTS_MAX + 1)])
    assert "writable mounts" in caught.value.message
    for number in range(10, 17):
        one.arm(number, [])
    with pytest.raises(HostError) as caught:
        one.arm(18, [])
    assert caught.value.reason == "WALL_NOT_STANDING"


@pytest.mark.root
def test_rings_are_ours(tmp_path: Path) -> None:
    one = standing(tmp_path)
    one.own_rings([3, 4])
    keys = [(key.sort, key.id) for key in one._ours.all_keys()]
    assert sorted(keys) == [(layout.SORT_MAP, 3), (layout.SORT_MAP, 4)]


@pytest.mark.root
def test_the_trial_takes_nothing_of_what_former_calls_had_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attached(self: Guard, shared: object, links: object) -> None:
        self.__dict__.update(standing(here.places.pins).__dict__)

    async def main() -> None:
        former = Fence(here.places)
        former.open()
        await former.watch(here.call_id)
        here.run("/bin/true")
        former._close_links()
        monkeypatch.setattr(Guard, "open", attached)
        heir = Fence(here.places)
        heir.open()
        assert heir.adopted
        left = heir.leftovers()[here.call_id]
        assert any(isinstance(one, ExecRecord) for one in left.processes)
        heir.close()

    with ground() as here:
        asyncio.run(main())
