"""Names and exit codes of outcomes."""

from __future__ import annotations

import typing

import pytest

from supervisor.call.outcome import (
    KINDS,
    Exited,
    Failed,
    Interrupted,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    Signaled,
    Stopped,
    TimedOut,
    amount,
    describe,
    exit_code,
    kind,
)

CASES: list[tuple[Outcome, str, int]] = [
    (Exited(code=0), "exited", 0),
    (Exited(code=255), "exited", 255),
    (Signaled(signal=11), "signaled", 139),
    (Signaled(signal=6, core_dumped=True), "signaled", 134),
    (TimedOut(limit_s=1.5), "timed_out", 124),
    (OutOfMemory(limit_bytes=1, peak_bytes=1, kills=1), "out_of_memory", 137),
    (LimitExceeded(limit=LimitKind.OUTPUT, used=2, allowed=1), "limit_exceeded", 137),
    (Stopped(by="agent", reason="SIGNAL", signal=15), "stopped", 143),
    (Stopped(by="daemon", reason="SHUTDOWN"), "stopped", 137),
    (Failed(reason="HOST_UNFIT", message="no"), "failed", 125),
    (Interrupted(message="daemon died"), "interrupted", 125),
]


@pytest.mark.parametrize(("outcome", "name", "code"), CASES, ids=repr)
def test_name_and_exit_code(outcome: Outcome, name: str, code: int) -> None:
    assert (kind(outcome), exit_code(outcome)) == (name, code)


def test_every_outcome_is_in_the_cases_and_has_a_name_of_its_own() -> None:
    union = set(typing.get_args(Outcome))
    assert {type(outcome) for outcome, _, _ in CASES} == union == set(KINDS)
    assert len(set(KINDS.values())) == len(KINDS)


def test_only_a_program_that_ended_well_gives_zero() -> None:
    assert [o for o, _, _ in CASES if exit_code(o) == 0] == [Exited(code=0)]


@pytest.mark.parametrize(
    ("limit", "value", "shown"),
    [
        (LimitKind.CPU, 1011, "1.011 s"),
        (LimitKind.WALL, 3_600_000_000, "3600000 s"),
        (LimitKind.MEMORY, 512 << 20, "512 MiB"),
        (LimitKind.OUTPUT, 3 << 9, "1.5 KiB"),
        (LimitKind.DISK, 1023, "1023 bytes"),
        (LimitKind.PIDS, 64, "64"),
        ("spells", 7, "7"),
    ],
)
def test_what_a_limit_counts_has_its_unit(limit: str, value: int, shown: str) -> None:
    assert amount(limit, value) == shown


def test_limits_are_told_with_their_units() -> None:
    cpu = LimitExceeded(limit=LimitKind.CPU, used=1011, allowed=1000)
    assert describe(cpu) == "reached its cpu limit: 1.011 s used, 1 s allowed"
    memory = OutOfMemory(limit_bytes=1 << 20, peak_bytes=2 << 20, kills=1)
    assert describe(memory) == "ran out of memory: 2 MiB used, 1 MiB allowed"
    assert describe(TimedOut(limit_s=2_000_000)) == "timed out after 2000000 s"


def test_what_failed_says_whether_the_program_ran() -> None:
    failed = Failed(reason="WALL_NOT_STANDING", message="fence: gone")
    assert describe(failed) == "did not run: fence: gone [WALL_NOT_STANDING]"
    assert describe(failed, started=True) == "was ended: fence: gone [WALL_NOT_STANDING]"
