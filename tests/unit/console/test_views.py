"""Pages: whatever stands in a value is text in them, and no filter undoes it."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import jinja2
import pytest
from markupsafe import Markup

from supervisor.call.events import Timeline
from supervisor.cli import story
from supervisor.cli.sections import Section
from supervisor.client import wire
from supervisor.console import views
from supervisor.console.reader import Who
from supervisor.errors import NotFound
from tests.support.payloads import CONTROLS, CORPUS
from tests.unit.cli import record
from tests.unit.client import fake_daemon as fake

WHO = Who(caller="ann", reads_audit=True)


@pytest.mark.parametrize("payload", CORPUS)
def test_a_payload_is_text(payload: str) -> None:
    section = Section(title=payload, fields=[(payload, payload)], columns=(payload,),
                      rows=[(payload,)], notes=[payload])  # fmt: skip
    page = views.render("sinks.html", who=replace(WHO, caller=payload), section=section)
    plain = Section(title="t", fields=[("n", "v")], columns=("c",), rows=[("x",)], notes=["note"])
    expected = views.render("sinks.html", who=WHO, section=plain)
    assert re.findall(r"<[^>]*>", page) == re.findall(r"<[^>]*>", expected)
    assert html.unescape(page).count(payload) >= 6


@pytest.mark.parametrize(("payload", "seen"), CONTROLS.items())
def test_what_is_not_seen_is_shown(payload: str, seen: str) -> None:
    page = views.render("error.html", who=None, title="t", error=NotFound("X", payload))
    assert payload not in page
    assert seen in page


def test_lines_and_tabs_stay_and_bytes_that_are_no_text_are_shown() -> None:
    assert views.shown("a\n\tb\r\udcff") == "a\n\tb\\r\\xff"
    assert views.shown(Markup("<b>")) == "<b>"


def test_no_filter_makes_markup() -> None:
    for name in ("safe", "xmlattr", "urlize", "tojson", "forceescape", "striptags"):
        with pytest.raises(jinja2.TemplateAssertionError):
            views._pages.from_string("{{ x|" + name + " }}")


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        views.render("sinks.html", who=WHO)


def test_a_call_is_a_line() -> None:
    call = wire.call(fake.call(argv=[b"echo", b"a b"], finished=fake.finish()))
    line = views.line(call)
    assert (line.command, line.state, line.bad) == ("echo 'a b'", "exited with 0", False)


def test_lines_for_the_script_are_harmless() -> None:
    call = wire.call(fake.call(argv=[b"\x1b[2J"]))
    told = views.live_json([views.line(call)], more=False)
    assert told["rows"][0][-1] == "$'\\e[2J'"


def test_phases_as_a_picture() -> None:
    timeline = Timeline(accepted_ns=10**9, preparing_ns=10**9 + 100, started_ns=10**9 + 200,
                        ended_ns=10**9 + 1000)  # fmt: skip
    found = [(bar.name, bar.x, bar.width) for bar in views.bars(timeline)]
    assert found == [("accepted", 0, 100), ("preparing", 100, 100), ("started", 200, 800)]
    assert views.bars(Timeline(accepted_ns=1)) == []


def test_a_clock_that_was_set_back_draws_nothing_outside() -> None:
    timeline = Timeline(accepted_ns=10**9, preparing_ns=1, started_ns=5, ended_ns=10**9)
    for bar in views.bars(timeline):
        assert 0 <= bar.x < views.TIMELINE_WIDTH
        assert bar.width >= views.BAR_MIN


def test_the_story_of_a_call() -> None:
    made = record.record()
    head, *others = story.sections(made)
    page = views.render(
        "call.html", who=WHO, call=made.call, head=head, sections=others, rows_max=3,
        state="exited with 0", bars=[], width=1000, first=1, last=made.entries[-1],
        entries_max=0, streams=["stdout"],
    )  # fmt: skip
    assert "stockade audit proof" in page
    assert "more; stockade audit show has all" in page
    assert f"sha256:{made.entries[-1].leaf.sha256}" in page
