"""The bypass matrix in a call that may connect to every place there is: no row comes over the wire.

What the fence stops in `test_matrix.py`, where each row is shown to get through without it, it
stops here as well. Only TCP is let: to a door on the call's own loopback, where nobody listens.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

import pytest

from supervisor.bpf.doors import Door
from tests.escape import matrix
from tests.escape.matrix import ALLOWED, LACKING, STOPPED, Half, Row
from tests.support.doors import PORT, place
from tests.support.internet import holder, internet
from tests.support.unwalled import Denials, denials, ground

pytestmark = [pytest.mark.root, pytest.mark.slow]
Found = tuple[Half, Denials]
EVERYWHERE = (place("0.0.0.0/0", (0, 65535)), place("::/0", (0, 65535)))
REFUSED = {"ECONNREFUSED", "sent"}
"""By whom is at the door: nobody. "sent" says who does not wait for an answer."""


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    with holder() as near, internet(near) as there, ground() as here:
        call = here.place("call", inside=True)
        watch = here.watch(call)
        here.fence.open_door(call.identity(), Door(port=PORT, places=EVERYWHERE, flows_max=64))
        try:
            half = matrix.half(here, there, call, STOPPED)
            assert here.fence.flows(call.identity()) == 0
            yield half, denials(watch)
        finally:
            watch.close()


def is_there(half: Half, row: Row) -> bool:
    return not (row.optional and half.said[row.name] in LACKING)


def told_here(row: Row) -> tuple[str, str] | None:
    """Say how the record calls a row, None where it is led to the door."""
    assert row.told is not None
    hook, detail = row.told
    if hook != "connect":
        return row.told
    return None if detail.endswith(" tcp") else ("egress", detail)


@pytest.mark.parametrize("row", STOPPED, ids=str)
def test_nothing_gets_out(found: Found, row: Row) -> None:
    half, _ = found
    said = half.said[row.name]
    if not is_there(half, row):
        pytest.skip(f"the kernel has no such way out: {row}: {said}")
    assert half.reached(row) == set()
    if row.way == "listen":
        _, home = row.answer.split()[:2]
        assert said == f"{home} {home}"
        assert half.visits[row.name] == "TimeoutError"
    elif told_here(row) is None:
        assert said in REFUSED
    else:
        assert said == "EPERM"


def test_each_denial_is_told_once_and_no_other(found: Found) -> None:
    half, told = found
    wanted = collections.Counter(
        kind for row in STOPPED if is_there(half, row) and (kind := told_here(row)) is not None
    )
    # How often TCP tries again to come in is the time's to say.
    assert {kind: min(n, 1) if kind[0] == "ingress" else n for kind, n in told.items()} == wanted


@pytest.mark.parametrize("name", ALLOWED)
def test_ones_own_loopback_works_by_all_its_names(found: Found, name: str) -> None:
    assert found[0].said[name] == f"True {ALLOWED[name]}"
