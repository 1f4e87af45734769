"""Events that are put together of what earlier ones were are what they would be by themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.entry import Kind
from supervisor.export.event import Entry, Head, Opening
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_alike import BODY_BYTES_MAX, KEPT_MAX, Marks, hexadecimal
from supervisor.export.formats.ocsf_shapes import Release
from tests.support.exported import HOSTILE, SOURCE
from tests.unit.export.formats.test_ocsf_parts import BODY

HEADS = (Head(0, ""), Head(9, "cm9vdA=="), Head(10, "%s"))
OPENINGS = (None, Opening(3, 4, BODY), Opening(5, 6, BODY))
DENIED: dict[str, Any] = {
    "allowed": 0, "arguments": [1, 2**64 - 1], "count": 1, "detail": "", "name": "mount", "pid": 7,
    "program": "sh", "rule": "", "used": 0, "wall": "syscall",
}  # fmt: skip
TEXTS = st.sampled_from(["", "mount", "%s %(x)d %%", HOSTILE, "\ud800", "203.0.113.7:443"])
ODD = st.sampled_from(
    [None, True, 0, 1, 1.0, -0.0, math.nan, 2**70, -1, "1", [1], {"base64": "QQ"}]
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "arguments": st.one_of(st.lists(st.integers(-1, 2**64), max_size=3), ODD, st.just([True])),
        "count": ODD,
        "detail": TEXTS,
        "killed": st.booleans(),
        "name": TEXTS,
        "pid": ODD,
        "program": ODD,
        "rule": TEXTS,
        "wall": st.sampled_from(["syscall", "network", "program", "limit", "kernel", "?"]),
        "x": ODD,
    },
)


def entry(index: int, body: dict[str, Any], kind: str = Kind.DENIED, call: str = "c") -> Entry:
    return Entry(index, f"{index:064x}", 1_795_821_209_927_047_766 + index, kind, call, index, body)


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[Entry, Opening | None, Head]]:
    """Give entries of which many are alike."""
    bodies = draw(st.lists(BODIES, min_size=1, max_size=3))
    made: list[tuple[Entry, Opening | None, Head]] = []
    for index in range(draw(st.integers(1, 12))):
        body = dict(draw(st.sampled_from(bodies)))
        if draw(st.booleans()) and "arguments" in body:
            body["arguments"] = draw(st.lists(st.integers(0, 2**64), max_size=2))
        one = entry(
            draw(st.sampled_from([index, 2**40 + index])),
            body,
            draw(st.sampled_from([Kind.DENIED, Kind.DENIED, Kind.WATCHED])),
        )
        place = draw(st.integers(0, len(OPENINGS) - 1))
        # A call has one opening, where it has any.
        one.call = f"{place}%s" if place else draw(st.sampled_from(["", "d", '"\n%s']))
        one.time_ns = draw(st.sampled_from([one.time_ns, 0, -1, 2**63, 2**70]))
        made.append((one, OPENINGS[place], draw(st.sampled_from(HEADS))))
    return made


@pytest.mark.parametrize("release", list(Release))
@settings(max_examples=300, deadline=None)
@given(told=entries())
def test_they_are_what_they_would_be_by_themselves(
    release: Release, told: list[tuple[Entry, Opening | None, Head]]
) -> None:
    together = Ocsf(SOURCE, release)
    for one, opening, head in told:
        alone = Ocsf(SOURCE, release).encode(one, opening, head)
        assert list(together.encode(one, opening, head)) == list(alone)


def drafted(ocsf: Ocsf, told: list[Entry]) -> int:
    """Give how many were made from the beginning."""
    made = ocsf._drafted
    with mock.patch.object(ocsf, "_drafted", side_effect=made) as drafting:
        for one in told:
            ocsf.encode(one, OPENINGS[1], HEADS[1])
    return int(drafting.call_count)


def test_what_differs_in_its_place_and_arguments_alone_is_drafted_twice() -> None:
    told = [entry(index, {**DENIED, "arguments": [index]}) for index in range(50)]
    assert drafted(Ocsf(SOURCE), told) == 2
    assert drafted(Ocsf(SOURCE), [replace(one, kind=Kind.FLOW) for one in told]) == 50


@pytest.mark.parametrize("name", [name for name in DENIED if name != "arguments"])
def test_what_differs_in_anything_else_is_drafted_by_itself(name: str) -> None:
    value = DENIED[name]
    told = [
        entry(index, {**DENIED, name: index if isinstance(value, int) else f"{value}{index}"})
        for index in range(2, 12)
    ]
    assert drafted(Ocsf(SOURCE), told) == 10


def test_a_tool_cannot_have_much_kept() -> None:
    ocsf = Ocsf(SOURCE)
    for index in range(KEPT_MAX + 10):
        for _ in range(2):
            ocsf.encode(entry(index, {**DENIED, "name": f"{index}"}), OPENINGS[1], HEADS[1])
        assert len(ocsf._alikes._kept) <= KEPT_MAX
    assert len(ocsf._alikes._kept) == 10
    large = [entry(index, {**DENIED, "detail": "x" * BODY_BYTES_MAX}) for index in range(5)]
    assert drafted(ocsf, large) == 5
    assert len(ocsf._alikes._kept) == 10


def test_a_mark_is_of_one_format_alone() -> None:
    ours, others = Marks().texts(), Marks().texts()
    assert not set(ours) & set(others)
    assert all(len(text) >= 19 for text in ours)


def test_a_body_that_has_a_mark_of_another_is_told_as_it_is() -> None:
    ocsf = Ocsf(SOURCE)
    for text in Marks().texts():
        for index in range(3):
            one = entry(index, {**DENIED, "name": text})
            assert ocsf.encode(one, None, HEADS[0]) == Ocsf(SOURCE).encode(one, None, HEADS[0])


def test_arguments_are_told_as_they_are_told_otherwise() -> None:
    assert hexadecimal([]) == "[]"
    assert hexadecimal([0, 255, -1, 2**64]) == '["0x0","0xff","-0x1","0x10000000000000000"]'
    for odd in ([True], ["1"], [1.0], (1,), None, "12", {}):
        assert hexadecimal(odd) is None
