"""Connections for people: each part bounded, and nothing that a sandbox chose reads as another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.audit.codec import flow_to_json
from supervisor.call.events import Flow, Verdict
from supervisor.cli import flows, story
from supervisor.cli.sections import show_first
from tests.support.records import FLOW

CURL = Flow(
    name="api.github.com", address="203.0.113.7", port=443, rule="api.github.com:443",
    verdict=Verdict.CLOSED, sent=1200, received=34_000, duration_s=0.31, pid=123, program=b"curl",
)  # fmt: skip


def line(flow: Flow) -> str:
    return flows.line(flow_to_json(flow))


def test_a_line_has_everything() -> None:
    assert line(CURL) == (
        "api.github.com:443 → 203.0.113.7 · rule api.github.com:443 · closed · "
        "1.2 KiB out, 33.2 KiB in · 310 ms · curl[123]"
    )


def test_a_line_of_an_address() -> None:
    same = replace(CURL, name="2001:db8::7", address="2001:db8::7", rule="2001:db8::/32:443")
    assert line(same).startswith("[2001:db8::7]:443 · rule 2001:db8::/32:443 · closed")


def test_a_line_of_what_did_not_come_about() -> None:
    failed = Flow(
        name="api.example.com", address="", port=80, rule="", verdict=Verdict.FAILED,
        reason="no address answers",
    )  # fmt: skip
    assert line(failed) == (
        "api.example.com:80 · no rule · failed · 0 B out, 0 B in · 0 s · no address answers"
    )


def test_what_a_sandbox_chose_reads_as_no_other_part() -> None:
    """A name cannot come here as such; the record may be anybody's."""
    forged = replace(
        FLOW, name="a.example.com:443 · closed", program=b"sh[1] \x1b]0;x", reason="x · closed"
    )
    shown = line(forged)
    assert shown.startswith("['a.example.com:443 · closed']:443 → ")
    assert "$'sh[1] \\e]0;x'[70]" in shown
    assert shown.endswith(" · x · closed")


def test_a_long_part_hides_no_other() -> None:
    shown = line(
        replace(
            FLOW, name="x" * 240 + ".example.com", rule="r" * 446, reason="y" * 2048,
            address="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        )
    )  # fmt: skip
    assert shown.index("reset") < story.TEXT_WIDTH - len("reset")
    assert "…xxx" in shown
    assert "xxx.example.com:443 → 2001:" in shown
    assert len(shown) < 350


@pytest.mark.parametrize("body", [{}, {"name": 3, "port": None, "program": 7}])
def test_what_is_not_known_is_shown_as_it_stands(body: dict[str, object]) -> None:
    """A newer daemon's entry is never a reason to show none."""
    assert " · ?" in flows.line(body)
    show_first(flows.section([body]))


def test_connections_in_a_row() -> None:
    bodies = [flow_to_json(flow) for flow in (CURL, CURL, FLOW)]
    assert flows.summed(bodies[:1]) == line(CURL)
    assert flows.summed(bodies) == "3 connections, 3.5 KiB out, 99.6 KiB in; listed below"


def test_alike_ones_are_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    alike = [
        replace(CURL, address=f"203.0.113.{n}", pid=n, sent=n << 20) for n in range(1, 6)
    ]  # fmt: skip
    denied = replace(CURL, verdict=Verdict.DENIED, reason="the hello names \x1b evil.example.com")
    show_first(flows.section([flow_to_json(flow) for flow in (denied, *alike)]))
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:6] == [
        "api.github.com:443", "203.0.113.1,", "203.0.113.2,", "203.0.113.3", "and", "2"
    ]  # fmt: skip
    assert "5      15.0 MiB  166.0 KiB  curl[1], curl[2], curl[3] and 2 more  closed" in first
    assert second.endswith("denied: the hello names \\e evil.example.com")


def test_a_table_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    show_first(
        flows.section([flow_to_json(replace(CURL, name=f"n{n}.example.com")) for n in range(60)])
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + flows.SHOWN_MAX + 1
    assert lines[-1] == "and 10 more; --json has all"
