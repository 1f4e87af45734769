"""What events of a call have in common is made once, and for what is the same alone."""

from __future__ import annotations

from dataclasses import replace

from supervisor.export.event import Opening
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_parts import Draft, call_parts
from supervisor.export.formats.ocsf_shapes import SHAPES_MAX, Release, Shapes
from tests.support.exported import SOURCE
from tests.unit.export.formats.test_ocsf_parts import BODY

DRAFT = Draft(
    facts.KERNEL_ACTIVITY, 4, "m", {}, activity="Do", severity=facts.MEDIUM, status=facts.FAILURE,
    decision=(facts.DENIED, facts.BLOCKED),
)  # fmt: skip
OTHERS = (
    replace(DRAFT, class_uid=facts.PROCESS_ACTIVITY),
    replace(DRAFT, activity_id=99),
    replace(DRAFT, activity="Else"),
    replace(DRAFT, severity=facts.LOW),
    replace(DRAFT, status=facts.SUCCESS),
    replace(DRAFT, decision=None),
)


def test_what_is_the_same_is_made_once() -> None:
    shapes, parts = (
        Shapes(SOURCE, Release.V1_8),
        call_parts(Opening(3, 4, BODY), "c", SOURCE, old=False),
    )
    first = shapes.shape(DRAFT, parts, ("time", "actor"))
    told = replace(DRAFT, message="else", more={"x": 1}, status_code="n", count=3, time_ns=7)
    assert shapes.shape(told, parts, ("time", "actor")) is first
    assert shapes.shape(DRAFT, parts, ("time",)) is not first
    for other in OTHERS:
        made = shapes.shape(other, parts, ("time", "actor"))
        assert made.fixed != first.fixed
        assert made.fixed_text != first.fixed_text
    elsewhere = call_parts(Opening(3, 4, BODY), "d", SOURCE, old=False)
    assert shapes.shape(DRAFT, elsewhere, ("time", "actor")) is not first


def test_1_1_lacks_some() -> None:
    parts = call_parts(Opening(3, 4, BODY), "c", SOURCE, old=True)
    api = replace(DRAFT, class_uid=facts.BASE_EVENT)
    made = Shapes(SOURCE, Release.V1_1).shape(api, parts, ("time", "actor", "message"))
    assert list(made.lacking) == ["actor"]
    assert {"device", "policy", "action_id"} <= made.beside.keys()
    assert not made.beside.keys() & made.fixed.keys()


def test_a_body_cannot_have_many_kept() -> None:
    shapes, parts = (
        Shapes(SOURCE, Release.V1_8),
        call_parts(Opening(3, 4, BODY), "c", SOURCE, old=False),
    )
    for number in range(3 * SHAPES_MAX):
        shapes.shape(replace(DRAFT, activity=f"activity {number}"), parts, ())
        assert len(parts.shapes) <= SHAPES_MAX
