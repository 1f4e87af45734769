"""Ranges of host ids: each lent to one sandbox at a time, over all daemons of a host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor.errors import CapacityError
from supervisor.oci.spec import ID_RANGE
from supervisor.sandbox import uids
from supervisor.sandbox.uids import FIRST_ID, RANGES, UidRanges, base_of

ROOT = Path(__file__).resolve().parents[3]

OTHER = """
import contextlib, sys
from pathlib import Path
from supervisor.sandbox import uids
uids.RANGES = int(sys.argv[3])
ranges = uids.UidRanges(Path(sys.argv[1]))
with contextlib.ExitStack() as stack:
    for _ in range(int(sys.argv[2])):
        print(stack.enter_context(ranges.lease()), flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "uids.lock"


@pytest.fixture
def ranges(path: Path) -> Iterator[UidRanges]:
    made = UidRanges(path)
    yield made
    made.close()


def other(path: Path, leases: int, known: int) -> subprocess.Popen[str]:
    """Start another process that leases some and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", OTHER, path, str(leases), str(known)], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ranges_do_not_overlap_nor_leave_what_systemd_leaves_unused(ranges: UidRanges) -> None:
    with ExitStack() as stack:
        bases = [stack.enter_context(ranges.lease()) for _ in range(100)]
    assert sorted(bases) == [FIRST_ID + n * ID_RANGE for n in range(100)]
    assert FIRST_ID + RANGES * ID_RANGE <= 0x7FFE0000
    assert FIRST_ID % ID_RANGE == 0


def test_a_range_is_not_lent_again_at_once(ranges: UidRanges) -> None:
    with ranges.lease() as first:
        pass
    with ranges.lease() as second:
        pass
    assert first != second


def test_a_range_comes_back(ranges: UidRanges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "RANGES", 2)
    seen = set()
    for _ in range(5):
        with ranges.lease() as base:
            seen.add(base)
    assert len(seen) == 2


def test_no_range_is_left(ranges: UidRanges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "RANGES", 2)
    with ranges.lease(), ranges.lease():
        with pytest.raises(CapacityError) as caught, ranges.lease():
            raise AssertionError("lent a third of two")
        assert caught.value.reason == "UID_RANGES_EXHAUSTED"
        assert caught.value.retry_after_s
    with ranges.lease() as base:
        assert base in (FIRST_ID, FIRST_ID + ID_RANGE)


def test_two_ranges_of_one_file_in_one_process(path: Path, ranges: UidRanges) -> None:
    """Locks belong to the open file: closing one of two does not give up the other's."""
    second = UidRanges(path)
    with ranges.lease() as one, second.lease() as two:
        assert one != two
        UidRanges(path).close()
        third = UidRanges(path)
        with third.lease() as three:
            assert three not in (one, two)
        third.close()
    second.close()


def test_two_processes_never_lend_the_same(
    path: Path, ranges: UidRanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uids, "RANGES", 6)
    with other(path, 3, 6) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        theirs = {int(process.stdout.readline()) for _ in range(3)}
        with ExitStack() as stack:
            ours = {stack.enter_context(ranges.lease()) for _ in range(3)}
            assert len(theirs | ours) == 6
            with pytest.raises(CapacityError):
                stack.enter_context(ranges.lease())
            process.kill()
            process.wait()
            # The lock goes with the process, however it ends.
            assert stack.enter_context(ranges.lease()) in theirs


def test_the_range_of_an_id() -> None:
    third = FIRST_ID + 2 * ID_RANGE
    assert base_of([0, third + 1000, third]) == third
    assert base_of([FIRST_ID + RANGES * ID_RANGE - 1]) == FIRST_ID + (RANGES - 1) * ID_RANGE
    assert base_of([0, 1000, FIRST_ID - 1, FIRST_ID + RANGES * ID_RANGE]) == 0
    assert base_of([]) == 0
