"""The fence on a real cgroup: it holds, it outlives its daemon, and what is missing is named."""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.bpf import watch as watch_module
from supervisor.bpf.decode import ArgvRecord, ExecRecord
from supervisor.bpf.fence import Fence
from supervisor.bpf.watch import Told
from supervisor.errors import HostError, InvariantError
from tests.unit.bpf.real import Ground, fail, ground, with_fence

CHUNK_BYTES = 8192
"""Of argv in one event: see probes/include/abi.h."""

pytestmark = pytest.mark.root

CONNECT = """/usr/bin/python3 - <<'END'
import socket
for family, address in ((2, "203.0.113.9"), (2, "203.0.113.9"), (10, "2001:db8::9")):
    try:
        socket.socket(family).connect((address, 443))
    except OSError as error:
        print(error.errno)
END
"""
EPERM, ENETUNREACH = b"1\n", b"101\n"


async def told_of(watch: Any, work: Callable[[], Any]) -> tuple[Any, Told]:
    """Do something in another thread; give its result and all that was told of it."""
    whole = Told()

    def take(told: Told) -> None:
        whole.denials += told.denials
        whole.processes += told.processes
        for name, count in told.lost.items():
            whole.lost[name] = whole.lost.get(name, 0) + count

    watch.tell(take, fail)
    result = await asyncio.to_thread(work)
    watch.finish()
    return result, whole


def test_without_it_the_attempt_finds_no_route() -> None:
    with ground() as here:
        assert here.run(CONNECT).stdout == ENETUNREACH * 3


def test_a_live_call_is_denied_and_told() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        done, told = await told_of(watch, lambda: here.run(CONNECT))
        assert done.stdout == EPERM * 3
        counts = {}
        for denial in told.denials:
            assert (denial.refused.name, denial.program) == ("connect", b"python3")
            counts[denial.refused.detail] = counts.get(denial.refused.detail, 0) + denial.count
        assert counts == {"203.0.113.9:443 tcp": 2, "[2001:db8::9]:443 tcp": 1}
        assert fence.strays()["connect"] == 0
        watch.close()
        assert list(fence.folded.all_keys()) == []

    with_fence(scenario)


def test_who_is_no_call_is_denied_and_counted() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        script = "/usr/bin/python3 -c 'import socket; socket.socket()' 2>&1 | tail -1"
        assert b"Operation not permitted" in here.run(script).stdout
        assert fence.strays()["socket"] == 1

    with_fence(scenario)


def test_programs_are_told() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        long = "x" * 20_000
        work = f"cd /usr/share; /usr/bin/env printf %s {long} >/dev/null; /bin/false"
        _, told = await told_of(watch, lambda: here.run(work))
        programs = [one for one in told.processes if isinstance(one, ExecRecord)]
        assert [one.path for one in programs] == [
            b"/usr/bin/env", b"/usr/bin/printf", os.fsencode(Path("/bin/false").resolve()),
        ]  # fmt: skip
        assert {one.directory for one in programs} == {b"/usr/share"}
        assert programs[2].argv == b"/bin/false\0"
        first = programs[0]
        more = [one for one in told.processes if isinstance(one, ArgvRecord)]
        whole = first.argv + b"".join(
            one.data for one in more if first.sequence < one.sequence < programs[1].sequence
        )
        assert whole == b"/usr/bin/env\0printf\0%s\0" + long.encode() + b"\0"
        assert len(whole) == first.argv_bytes
        watch.close()

    with_fence(scenario)


LONG_ARGV = """/usr/bin/python3 - <<'END'
import os, resource
resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.RLIM_INFINITY))
os.execv("/bin/true", ["true"] + ["x" * 100_000] * 50)
END
"""


def test_of_an_argv_beyond_the_usual_limit_each_piece_is_told_or_lost() -> None:
    """A program may raise its own stack limit, and with it what argv may have."""

    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        _, told = await told_of(watch, lambda: here.run(LONG_ARGV))
        size = len("true") + 1 + 50 * 100_001
        [first] = [p for p in told.processes if isinstance(p, ExecRecord) and p.argv_bytes == size]
        pieces = sum(
            isinstance(p, ArgvRecord) and p.sequence > first.sequence for p in told.processes
        )
        assert pieces + told.lost["argv"] == -(-(size - len(first.argv)) // CHUNK_BYTES)
        watch.close()

    with_fence(scenario)


def test_long_arguments_keep_no_start_out() -> None:
    """All the pieces of these argvs would fill the ring more than a dozen times."""

    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        script = LONG_ARGV + "n=0; while [ $n -lt 100 ]; do /bin/true; n=$((n+1)); done"
        await asyncio.to_thread(here.run, script)
        told: list[Told] = []
        watch.tell(told.append, fail)
        watch.finish()
        started = [p for one in told for p in one.processes if isinstance(p, ExecRecord)]
        assert sum(record.path.endswith(b"/true") for record in started) == 101
        assert {name for one in told for name in one.lost} == {"argv"}
        watch.close()

    with_fence(scenario)


def test_a_full_ring_is_counted_to_the_event() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        script = "n=0; while [ $n -lt 3000 ]; do /bin/true; n=$((n+1)); done"
        await asyncio.to_thread(here.run, script)
        told: list[Told] = []
        watch.tell(told.append, fail)
        watch.finish()
        read = sum(len(one.processes) for one in told)
        lost = sum(count for one in told for count in one.lost.values())
        # Each of 3000 programs, and the shell's own end.
        assert read + lost == 6001
        assert lost > 0
        watch.close()

    with_fence(scenario)


@pytest.mark.parametrize("step", ["take", "sweep"])
def test_what_cannot_be_told_is_said_and_read_no_more(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "FOLD_S", 0.01)

    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        failed: list[Exception] = []
        monkeypatch.setattr(watch, step, lambda: fail(OSError("no map")))
        watch.tell(lambda told: None, failed.append)
        await asyncio.to_thread(here.run, CONNECT)
        while not failed:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(here.run, CONNECT)
        await asyncio.sleep(0.05)
        assert [str(error) for error in failed] == ["no map"]
        watch.close()

    with_fence(scenario)


def test_the_next_daemon_takes_over() -> None:
    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            fence.close_gap()
            await fence.watch(here.call_id)  # and this daemon is gone without a word
            assert fence.live.ids() == {here.call_id}
            fence._close_links()
            assert here.run(CONNECT).stdout == EPERM * 3
            heir = Fence(here.places)
            heir.open()
            assert heir.adopted
            left = heir.leftovers()[here.call_id]
            counts: collections.Counter[str] = collections.Counter()
            for denial in left.denials:
                counts[denial.refused.detail] += denial.count
            assert counts == {"203.0.113.9:443 tcp": 2, "[2001:db8::9]:443 tcp": 1}
            assert any(isinstance(one, ExecRecord) for one in left.processes)
            assert heir.leftovers() == {}
            assert heir.live.ids() == frozenset()
            assert heir.gap == ""
            watch = await heir.watch(here.call_id)
            assert watch.standing()
            assert heir.live.ids() == {here.call_id}
            watch.close()
            assert heir.live.ids() == frozenset()
            heir.close()
            assert [p for p in here.places.pins.iterdir() if "." not in p.name] == []

    asyncio.run(scenario())


def test_the_next_daemon_knows_what_the_former_one_had_read() -> None:
    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            fence.mark_reading()
            assert [path.name for path in fence._gaps()] == ["gap-FENCE_GONE"]
            watch = await fence.watch(here.call_id)
            here.run("/usr/bin/true")
            before = watch.take()
            assert before is not None
            watch.begin(kept=1)
            here.run(CONNECT)
            after = watch.take()
            assert after is not None
            here.run("/usr/bin/true")
            fence.close_gap()
            fence._close_links()
            heir = Fence(here.places)
            heir.open()
            heir.mark_reading()
            left = heir.leftovers()[here.call_id]
            assert left.read == 1 + len(after.processes)
            assert len(left.processes) > 0
            heir._close_links()
            third = Fence(here.places)
            third.open()
            assert third.gap == "FENCE_READ"
            assert list(third.begun.all_keys()) == []
            third.close()

    asyncio.run(scenario())


def test_an_event_that_cannot_be_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            watch = await fence.watch(here.call_id)
            watch.begin()
            here.run("/usr/bin/true")
            fence._close_links()
            heir = Fence(here.places)
            heir.open()
            good = iter([True])

            def decode(data: bytes) -> Any:
                if next(good, False):
                    return original(data)
                raise InvariantError("EVENT_MALFORMED", "x")

            monkeypatch.setattr(watch_module, "decode", decode)
            left = heir.leftovers()[here.call_id]
            assert len(left.processes) == 1
            assert left.read is not None
            assert left.read > 0
            heir.close()

    original = watch_module.decode
    asyncio.run(scenario())


def test_another_version_is_replaced() -> None:
    async def scenario() -> None:
        with ground() as here:
            old = Fence(replace(here.places, level=7))
            old.open()
            new = Fence(here.places)
            new.open()
            assert not new.adopted
            assert (old.gap, new.gap) == ("FENCE_GONE", "FENCE_REPLACED")
            assert new.faults() == []
            names = [p.name for p in here.places.pins.iterdir() if p.name.startswith("v")]
            assert names == [here.places.version()]
            assert any("no longer pinned" in fault for fault in old.faults())
            new.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "what",
    [
        "links/fence_egress",
        "links/watch_exec",
        "maps/calls",
        "maps/strays",
        "maps/watched",
        "maps/begun",
    ],
)
def test_a_pin_that_is_gone_is_named(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stockade.fence")

    async def scenario(here: Ground, fence: Fence) -> None:
        assert fence.faults() == fence.pin_faults() == []
        (here.places.pins / here.places.version() / what).unlink()
        [fault] = fence.faults()
        assert fault.endswith(f"{Path(what).name} is no longer pinned")
        assert fence.pin_faults() == [fault]
        heir = Fence(here.places)
        heir.open()
        assert not heir.adopted
        assert heir.faults() == []

    with_fence(scenario)
    [removed] = [line for line in caplog.messages if line.startswith("removed ")]
    assert removed.startswith("removed what was not whole: v")


def test_the_map_of_live_calls_is_named_where_it_is_gone() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        (here.places.pins / "live").unlink()
        fault = "fence: the map live is no longer pinned"
        assert fence.faults() == fence.pin_faults() == [fault]
        heir = Fence(here.places)
        heir.open()
        assert heir.adopted
        assert heir.faults() == []

    with_fence(scenario)


@pytest.mark.parametrize("what", ["maps/calls", "maps/rings", "links/fence_egress"])
def test_what_is_not_whole_is_replaced_before_it_goes(what: str) -> None:
    class Heir(Fence):
        def _install(self, gap: str) -> None:
            # A call of the former daemon that still lives has no other fence.
            assert (here.places.pins / here.places.version() / "links/fence_connect4").exists()
            super()._install(gap)

    with ground() as here:
        Fence(here.places).open()
        (here.places.pins / here.places.version() / what).unlink()
        heir = Heir(here.places)
        heir.open()
        assert not heir.adopted
        assert heir.gap == "FENCE_REPLACED"
        # It was ended before it could write that down: the next one, which takes over, does.
        heir._close_links()
        third = Fence(here.places)
        third.open()
        assert (third.adopted, third.gap) == (True, "FENCE_REPLACED")
        third.close_gap()
        assert third.gap == ""
        fourth = Fence(here.places)
        fourth.open()
        assert (fourth.adopted, fourth.gap) == (True, "")
        assert heir.faults() == []
        names = [p.name for p in here.places.pins.iterdir() if p.name.startswith("v")]
        assert names == [here.places.version()]
        heir.close()


def test_a_link_that_is_detached_is_named() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        pin = here.places.pins / here.places.version() / "links/fence_connect4"
        subprocess.run(
            ["bpftool", "link", "detach", "pinned", pin], check=True, capture_output=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        assert fence.faults() == ["fence: fence_connect4 is detached"]

    with_fence(scenario)


def test_probes_that_are_not_built_are_named(tmp_path: Path) -> None:
    with ground() as here, pytest.raises(HostError) as caught:
        Fence(replace(here.places, objects=tmp_path))
    assert caught.value.reason == "PROBES_MISSING"


def test_a_folder_that_is_no_bpf_file_system(tmp_path: Path) -> None:
    with ground() as here, pytest.raises(HostError) as caught:
        Fence(replace(here.places, pins=tmp_path)).open()
    assert caught.value.reason == "FENCE_UNPINNABLE"


def test_a_call_that_is_there_already_is_refused() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        first = await fence.watch(here.call_id)
        with pytest.raises(HostError) as caught:
            await fence.watch(here.call_id)
        assert caught.value.reason == "WALL_NOT_STANDING"
        first.close()

    with_fence(scenario)
