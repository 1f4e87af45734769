"""A call behind the fence: the canary, and what is told as events of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from supervisor.audit.masked import Masked
from supervisor.audit.masks import Masks
from supervisor.bpf import layout
from supervisor.bpf.decode import HOOK_NAMES, ArgvRecord, ExecRecord, ExitRecord, Refused
from supervisor.bpf.fence import Fence
from supervisor.bpf.guard import TRIED
from supervisor.bpf.syscalls import Asked
from supervisor.bpf.watch import Denial, Made, Told, Watch
from supervisor.call.events import (
    Denied,
    Lost,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProgramStarted,
    Wall,
    Watched,
)
from supervisor.errors import HostError
from supervisor.profile.addresses import never
from supervisor.profile.model import Redact, SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.sandbox import fenced as fenced_module
from supervisor.sandbox.batches import Budget
from supervisor.sandbox.fenced import (
    CANARY_PLACES,
    GUARD_RULES,
    MIXED,
    CallFence,
    _of_cell,
    asked_of,
    events_of,
    missing_of,
    not_recorded,
)
from supervisor.sandbox.places import find_canary
from tests.unit.bpf.real import Ground, ground

BASE = 1_879_048_192


def program(sequence: int = 1, **changes: Any) -> ExecRecord:
    values: dict[str, Any] = {
        "sequence": sequence, "call": 5, "time_ns": 0, "pid": 70, "parent_pid": 60,
        "uid": BASE + 1000, "gid": 0, "path": b"/usr/bin/sh", "directory": b"/work",
        "argv": b"sh\0-c\0", "argv_bytes": 6, "cut": 0,
    }  # fmt: skip
    return ExecRecord(**values | changes)


def end(sequence: int = 2, status: int = 0) -> ExitRecord:
    return ExitRecord(
        sequence=sequence, call=5, time_ns=0, pid=70, parent_pid=60, status=status,
        user_ns=500_000_000, system_ns=0, memory_peak_bytes=4096,
    )  # fmt: skip


def test_of_what_ran_before_the_canary_only_the_start_of_cell_is_the_call_s() -> None:
    cell = program(3, pid=71, path=b"/.stockade/cell")
    more = ArgvRecord(sequence=4, call=5, time_ns=0, pid=71, offset=6, data=b"x\0")
    others = [program(1, path=b"/"), replace(more, pid=70), end(2), replace(end(5), pid=71)]
    assert list(_of_cell([*others[:3], cell, more, others[3]])) == [cell, more]


def test_processes_in_the_order_of_their_numbers() -> None:
    more = ArgvRecord(sequence=2, call=5, time_ns=0, pid=70, offset=6, data=b"x\0")
    [event] = events_of(Told(processes=[end(3), more, program(1)]), BASE)
    assert isinstance(event, Processes)
    started, argv, ended = event.events
    assert isinstance(started, ProgramStarted)
    assert (started.uid, started.gid, started.argv) == (1000, 0, (b"sh", b"-c"))
    assert isinstance(argv, MoreArgv)
    assert isinstance(ended, ProcessEnded)
    assert ended.cpu_user_s == 0.5


@pytest.mark.parametrize(("status", "code", "number"), [(0x300, 3, 0), (9, 0, 9), (0x8B, 0, 11)])
def test_how_a_process_ended(status: int, code: int, number: int) -> None:
    [event] = events_of(Told(processes=[end(status=status)]), BASE)
    assert isinstance(event, Processes)
    [ended] = event.events
    assert isinstance(ended, ProcessEnded)
    assert (ended.code, ended.signal) == (code, number)


@pytest.mark.parametrize(
    ("cut", "names"),
    [(0, ()), (layout.CUT_PATH | layout.CUT_ARGV, ("path", "argv")),
     (layout.CUT_DIRECTORY, ("directory",))],
)  # fmt: skip
def test_what_is_not_whole_is_named(cut: int, names: tuple[str, ...]) -> None:
    [event] = events_of(Told(processes=[program(cut=cut, argv=b"", argv_bytes=9)]), BASE)
    assert isinstance(event, Processes)
    [started] = event.events
    assert isinstance(started, ProgramStarted)
    assert (started.cut, started.argv) == (names, ())


class Quiet:
    """A watch that tells what a test has it tell."""

    def tell(self, take: Callable[[Told], None], fail: Callable[[Exception], None]) -> None:
        self.take = take

    def finish(self) -> None:
        self.take(Told(processes=[end(9)]))

    def close(self) -> None:
        pass


def over(**counts: int) -> list[Lost]:
    return [Lost(what=what, count=n, reason="RECORD_BUDGET") for what, n in counts.items()]


@pytest.mark.parametrize("fold", [False, True])
def test_what_is_over_the_budget_is_counted_to_the_end(
    monkeypatch: pytest.MonkeyPatch, *, fold: bool
) -> None:
    monkeypatch.setattr(fenced_module, "FOLD_S", 0.0 if fold else 600.0)
    monkeypatch.setattr(fenced_module, "Budget", lambda: Budget(1000))

    async def main() -> None:
        watch = Quiet()
        one = CallFence(cast("Fence", None), Path(), cast("Watch", watch), BASE)
        told: list[object] = []
        one.tell(told.extend, _fail)
        watch.take(Told(processes=[program(1), end(2)]))
        watch.take(Told(processes=[program(n) for n in range(3, 8)]))
        watch.take(Told(processes=[end(8)]))
        assert [type(event) for event in told] == [Processes]
        if fold:
            await asyncio.sleep(0.01)
            assert told[1:] == over(exec=5, exit=1)
            one.finish()
            assert told[3:] == over(exit=1)
        else:
            one.finish()
            assert told[1:] == over(exec=5, exit=2)
        one.close()

    asyncio.run(main())


def test_denials_and_losses() -> None:
    where = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="203.0.113.9:443 tcp")
    several = Refused(hook=layout.HOOK_SENDMSG, name="sendmsg", detail="")
    told = Told(
        denials=[
            Denial(refused=where, pid=70, program=b"curl", count=2),
            Denial(refused=several, pid=0, program=b"", count=9),
        ],
        lost={"exec": 4},
    )
    first, second, lost = events_of(told, BASE)
    assert isinstance(first, Denied)
    assert (first.wall, first.name, first.detail) == (Wall.NETWORK, "connect", where.detail)
    assert (first.pid, first.program, first.count) == (70, b"curl", 2)
    assert first.rule == "egress: nothing is allowed"
    assert isinstance(second, Denied)
    assert (second.detail, second.count) == (MIXED, 9)
    assert lost == Lost(what="exec", count=4, reason="RING_FULL")


def socket(family: int, count: int, pid: int = 0) -> Made:
    arguments = (family, 1, 0, 4, 5, 6) if pid else (family,)
    return Made(
        number=NUMBERS["socket"], arguments=arguments, pid=pid, program=b"sh" if pid else b"",
        count=count, killed=False,
    )  # fmt: skip


def repeats(name: str, count: int, *, killed: bool = False) -> Made:
    return Made(number=NUMBERS[name], arguments=(), pid=0, program=b"", count=count, killed=killed)


def test_watched_calls() -> None:
    told = Told(watched=[socket(2, 1, pid=70), socket(2, 4), repeats("getppid", 9)])
    first, more, other = events_of(told, BASE)
    assert first == Watched(
        name="socket", arguments=(2, 1, 0), detail="socket(AF_INET, SOCK_STREAM, 0)", pid=70,
        program=b"sh", count=1, rule="syscalls.watch: socket",
    )  # fmt: skip
    rule = "syscalls.watch: socket"
    assert more == Watched(name="socket", arguments=(2,), detail="AF_INET", count=4, rule=rule)
    assert other == Watched(name="getppid", count=9, rule="syscalls.watch: getppid")


def test_the_rule_of_an_observed_and_of_a_killing_call() -> None:
    told = Told(watched=[repeats("getppid", 1), repeats("ptrace", 1, killed=True)])
    observed, killing = events_of(told, BASE, "observe")
    assert isinstance(observed, Watched)
    assert isinstance(killing, Watched)
    assert (observed.rule, observed.killed) == ("mode: observe", False)
    assert (killing.rule, killing.killed) == ("syscalls.kill: ptrace", True)


def test_a_profile_that_watches_nothing_does_not_ask() -> None:
    policy = SyscallPolicy(
        allow=frozenset({"read", "getppid"}), kill=frozenset({"ptrace"}), sets=frozenset()
    )
    assert asked_of(policy) is None
    asked = asked_of(replace(policy, watch=frozenset({"getppid"})))
    assert asked == Asked(
        watch=frozenset({NUMBERS["getppid"]}), kill=frozenset({NUMBERS["ptrace"]})
    )


def test_every_system_call_has_a_bit() -> None:
    assert max(NUMBERS.values()) < layout.SYSCALLS_MAX


def test_watched_calls_that_are_recorded_already() -> None:
    left = Told(watched=[socket(2, 1, pid=70), socket(2, 6), socket(1, 3), repeats("getppid", 9)])
    recorded = [
        Watched(name="socket", arguments=(2, 1, 0), count=1),
        Watched(name="socket", arguments=(2,), count=3),
        Watched(name="getppid", arguments=(0,), count=2),
        Watched(name="getppid", count=2),
    ]
    rest = not_recorded(left, recorded)
    assert rest.watched == [socket(2, 3), socket(1, 3), repeats("getppid", 5)]


def test_no_rule_can_let_the_canary_through() -> None:
    for place in CANARY_PLACES:
        address, _, _ = place.partition(" ")[0].rpartition(":")
        assert never(ip_address(address.strip("[]")))


def test_what_is_recorded_already_is_not_told_again() -> None:
    where = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="203.0.113.9:443 tcp")
    canary = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="169.254.169.254:9 udp")
    left = Told(
        denials=[
            Denial(refused=one, pid=70, program=b"sh", count=count)
            for one, count in ((where, 5), (canary, 1), (canary, 2))
        ],
        processes=[end()],
        lost={"exec": 4, "exit": 1},
    )
    known = Denied(wall=Wall.NETWORK, name="connect", detail=where.detail, count=2)
    other = Denied(wall=Wall.SYSCALL, name="connect", detail=where.detail, count=9)
    recorded = [known, known, other, Lost(what="exec", count=3, reason="RING_FULL")]
    rest = not_recorded(left, recorded)
    assert [(one.refused.detail, one.count) for one in rest.denials] == [
        (where.detail, 1), (canary.detail, 1),
    ]  # fmt: skip
    assert rest.processes == [end()]
    assert rest.lost == {"exec": 1, "exit": 1}
    assert not_recorded(Told(), recorded) == Told()


def test_what_was_read_and_is_not_on_record_is_missing() -> None:
    cut = ArgvRecord(sequence=2, call=5, time_ns=0, pid=70, offset=6, data=b"x\0")
    more = replace(cut, sequence=3, offset=layout.ARGV_BYTES)
    recorded: list[object] = [*events_of(Told(processes=[program(1), cut, more, end(4)]), BASE)]
    recorded.append(Lost(what="exec", count=2, reason="RECORD_BUDGET"))
    recorded.append(Lost(what="exec", count=9, reason="RING_FULL"))
    # A start, of which the record has the argv in two pieces, one more, an end, and two counted.
    assert list(missing_of(Told(read=5), recorded)) == []
    for read, count in ((12, 7), (4, 0)):
        [lost] = missing_of(Told(read=read), recorded)
        assert lost == Lost(what="probe events", count=count, reason="DAEMON_DIED")
    assert list(missing_of(Told(), [])) == []


def test_what_has_grown_on_record_counts_once() -> None:
    """Else, what is in pieces would make up for what is missing."""
    cut = ArgvRecord(
        sequence=2, call=5, time_ns=0, pid=70, offset=layout.ARGV_BYTES,
        data=b"xoxb-1234567890 " * 3000,
    )  # fmt: skip
    more = replace(cut, sequence=3, offset=60_000, data=b"x\0")
    whole = program(1, argv_bytes=60_002, argv=b"sh\0" + b"x" * (layout.ARGV_BYTES - 3))
    mask = Masks(b"k" * 32).make(Redact(), {})
    assert mask is not None
    masked = Masked(mask)
    recorded = [
        shown
        for batch in events_of(Told(processes=[whole, cut, more]), BASE)
        if isinstance(batch, Processes)
        for shown, _ in masked.processes(batch)
    ]
    pieces = [one for part in recorded for one in part.events if isinstance(one, MoreArgv)]
    assert len(pieces) > 2
    assert list(missing_of(Told(read=3), recorded)) == []
    [lost] = missing_of(Told(read=4), recorded)
    assert lost.count == 1


def test_denials_of_the_guard_have_their_walls() -> None:
    hooks = [hook for hook in HOOK_NAMES if hook >= layout.HOOK_EXEC]
    assert set(hooks) == set(GUARD_RULES)
    refused = [Refused(hook=hook, name=HOOK_NAMES[hook], detail="x") for hook in hooks]
    told = Told(denials=[Denial(refused=one, pid=7, program=b"sh", count=1) for one in refused])
    found = [one for one in events_of(told, BASE) if isinstance(one, Denied)]
    walls = {one.name: one.wall for one in found}
    assert walls.pop("exec") is walls.pop("mmap") is walls.pop("mprotect") is Wall.PROGRAM
    assert set(walls.values()) == {Wall.KERNEL}
    assert all(one.rule for one in found)


def test_denials_of_the_guard_are_compared_by_name() -> None:
    """The kernel's counters know no path, and the canary's are among them."""
    canary = [
        Refused(hook=hook, name=HOOK_NAMES[hook], detail="file 1 of 0:1")
        for hook in GUARD_RULES
        for _ in range(TRIED[HOOK_NAMES[hook]])
    ]
    own = Refused(hook=layout.HOOK_EXEC, name="exec", detail="file 2 of 0:45")
    left = [Denial(refused=one, pid=7, program=b"canary", count=1) for one in canary]
    left.append(Denial(refused=own, pid=70, program=b"sh", count=5))
    recorded = [Denied(wall=Wall.PROGRAM, name="exec", detail="/work/x", count=3)]
    rest = not_recorded(Told(denials=left), recorded)
    assert [(one.refused.detail, one.count) for one in rest.denials] == [("file 2 of 0:45", 2)]
    assert not_recorded(Told(denials=left[:-1]), []) == Told()


def _fail(error: Exception) -> None:
    raise error


async def fenced(here: Ground, fence: Fence) -> CallFence:
    return CallFence(fence, here.call.unified, await fence.watch(here.call_id), BASE)


@pytest.mark.root
def test_the_canary_is_denied_told_and_not_on_record() -> None:
    async def main() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            one = await fenced(here, fence)
            await one.try_canary(find_canary())
            told: list[object] = []
            one.tell(told.extend, _fail)
            one.finish()
            assert told == []
            one.close()
            fence.close()

    asyncio.run(main())


@pytest.mark.root
@pytest.mark.parametrize("broken", ["pin", "row", "detached", "silent", "missing"])
def test_a_fence_that_cannot_be_shown_to_stand(broken: str, tmp_path: Path) -> None:
    async def main() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            one = await fenced(here, fence)
            canary = find_canary()
            links = here.places.pins / here.places.version() / "links"
            if broken == "pin":
                (links / "fence_egress").unlink()
            elif broken == "row":
                one.close()
            elif broken == "detached":
                # The daemon is made to believe in links that lead nowhere.
                fence.close()
            elif broken == "silent":
                canary = Path("/bin/true")
            else:
                canary = Path("/bin/false")
            with pytest.raises(HostError) as caught:
                await one.try_canary(canary)
            assert caught.value.reason == "WALL_NOT_STANDING"
            assert "fence" in caught.value.message
            if broken != "detached":
                one.close()
                fence.close()

    asyncio.run(main())
