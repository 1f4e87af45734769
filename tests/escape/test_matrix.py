"""The fence by itself: real containers without any other wall, over a wire that leads somewhere.

Each row is tried by root with all capabilities, without a seccomp filter, in a network namespace
with a route. Outside of the fence it gets through, so inside it is the fence that stops it.
`test_matrix_walls.py` has what stops the rest. The same tests run on other kernels: see
tests/vm/guest_matrix.py.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from tests.escape import matrix
from tests.escape.matrix import ALLOWED, STOPPED, UNSEEN, Findings, Row
from tests.support.internet import Internet, holder, internet
from tests.support.unwalled import PROGRAMS, PYTHON, Ground, denials, ground, in_cgroup

LACKS = "the kernel has no such way out:"
Places = tuple[Ground, Internet]
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with holder() as near, internet(near) as there, ground() as here:
        yield here, there


@pytest.fixture(scope="module")
def findings(places: Places) -> Findings:
    log.info("kernel %s", os.uname().release)
    found = matrix.find(*places)
    for row in (*STOPPED, *UNSEEN):
        log.info("%s", matrix.line(found, row))
    return found


def skip_where_lacking(findings: Findings, row: Row) -> None:
    if findings.control.lacks(row):
        assert findings.confined.lacks(row)
        pytest.skip(f"{LACKS} {row}: {findings.control.said[row.name]}")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("row", STOPPED, ids=str)
def test_the_fence_stops_it(findings: Findings, row: Row) -> None:
    skip_where_lacking(findings, row)
    control, confined = findings.control, findings.confined
    assert control.said[row.name] == row.answer
    assert control.reached(row) == row.reaches
    if row.way == "listen":
        # A listener is not told who is kept from it: nobody but itself came.
        _, home = row.answer.split()[:2]
        assert confined.said[row.name] == f"{home} {home}"
        assert (control.visits[row.name], confined.visits[row.name]) == (row.token, "TimeoutError")
    else:
        assert confined.said[row.name] == "EPERM"
    assert confined.reached(row) == set()
    assert row.told is not None
    assert findings.told[row.told] > 0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("row", UNSEEN, ids=str)
def test_no_hook_sees_it(findings: Findings, row: Row) -> None:
    """Why other walls are needed. Where one of these fails, the fence has become better."""
    skip_where_lacking(findings, row)
    for half in (findings.control, findings.confined):
        assert half.said[row.name] == row.answer
        assert half.reached(row) == row.reaches


@pytest.mark.root
@pytest.mark.slow
def test_each_denial_is_told_once_and_no_other(findings: Findings) -> None:
    there = [row for row in STOPPED if not findings.control.lacks(row)]
    wanted = collections.Counter(row.told for row in there)
    # How often TCP tries again to come in is the time's to say.
    told = {kind: min(n, 1) if kind[0] == "ingress" else n for kind, n in findings.told.items()}
    assert told == wanted


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("name", ALLOWED)
def test_ones_own_loopback_works_by_all_its_names(findings: Findings, name: str) -> None:
    for half in (findings.control, findings.confined):
        assert half.said[name] == f"True {ALLOWED[name]}"


def tried(rows: Sequence[Row]) -> list[str]:
    return [PYTHON, "leave.py", json.dumps([(row.way, row.arguments) for row in rows])]


def script(rows: Sequence[Row]) -> str:
    python, program, table = tried(rows)
    return f"exec {python} {program} '{table}'"


def expect_through(there: Internet, rows: Sequence[Row]) -> None:
    """See that the rows get through for who is in no cgroup of ours."""
    command = [*there.inside, *tried(rows)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=PROGRAMS)
    assert [json.loads(said) for said in done.stdout.splitlines()] == [row.answer for row in rows]
    frames, heard = there.everything()
    assert all(any(mark in one for one in frames) for row in rows for mark in row.marks)
    assert all(any(row.token in one for one in heard) for row in rows)


def expect_nothing(there: Internet, rows: Sequence[Row]) -> None:
    frames, heard = there.everything()
    assert not [row for row in rows for mark in row.marks if any(mark in one for one in frames)]
    assert not [row for row in rows if any(row.token in one for one in heard)]


@pytest.mark.root
def test_a_cgroup_below_belongs_to_the_call(places: Places) -> None:
    here, there = places
    rows = matrix.few(200)
    call = here.place("above", inside=True)
    watch = here.watch(call)
    below = here.place("above/one/two", inside=True)
    below.unified.mkdir(parents=True)
    done = in_cgroup(below, there.near, script(rows))
    assert done.stdout == b'"EPERM"\n' * len(rows)
    assert denials(watch) == {row.told: 1 for row in rows}
    watch.close()
    expect_nothing(there, rows)
    expect_through(there, rows)


@pytest.mark.root
def test_who_moves_below_is_still_of_the_call(places: Places) -> None:
    here, there = places
    rows = matrix.few(210)
    call = here.place("moving", inside=True)
    watch = here.watch(call)
    below = here.place("moving/below", inside=True)
    below.unified.mkdir(parents=True)
    here_and_there = f"{' '.join(tried(rows)[:2])} '{tried(rows)[2]}'"
    move = f"{here_and_there}; echo $$ >{below.unified}/cgroup.procs; {here_and_there}"
    done = in_cgroup(call, there.near, move)
    assert done.stdout == b'"EPERM"\n' * 2 * len(rows)
    assert denials(watch) == {row.told: 2 for row in rows}
    watch.close()
    expect_nothing(there, rows)
    expect_through(there, rows)


@pytest.mark.root
def test_a_stranger_beside_the_calls_has_no_sockets(places: Places) -> None:
    here, there = places
    rows = matrix.few(220)
    watch = here.watch(here.place("known", inside=True))
    stranger = here.place("stranger", inside=True)
    stranger.make()
    before = here.fence.strays()
    done = in_cgroup(stranger, there.near, script(rows))
    assert done.stdout == b'"EPERM"\n' * len(rows)
    after = here.fence.strays()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "socket": len(rows)
    }
    assert denials(watch) == {}
    watch.close()
    expect_nothing(there, rows)
    expect_through(there, rows)
