"""Sections: printed as titles, named values and tables, and harmless to print."""

from __future__ import annotations

import pytest

from supervisor.cli.sections import Section, show, show_first


def test_all_of_a_section_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    section = Section(title="streams", columns=("NAME", "SIZE"), rows=[("out", 3)], notes=["more"])
    show(section)
    assert capsys.readouterr().out.splitlines() == ["", "streams", "NAME  SIZE", "out   3", "more"]


def test_values_that_are_not_there_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    section = Section(title="t", fields=[("agent", ""), ("code", 0), ("held", None)])
    show_first(section)
    assert capsys.readouterr().out.splitlines() == ["t", "  code          0"]
    assert section.given == [("code", 0)]


def test_nothing_bites(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J"
    show(Section(title=evil, fields=[("a", evil)], columns=("b",), rows=[(evil,)], notes=[evil]))
    assert "\x1b" not in capsys.readouterr().out
