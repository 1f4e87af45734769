"""Formats by their names, and what holds for each: an event is one line, whatever is in it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.codec import denied_to_json
from supervisor.audit.entry import Kind
from supervisor.call.events import Denied, Wall
from supervisor.export.event import Entry, Event, Head, Opening, Source
from supervisor.export.formats.make import FORMATS, make_format
from tests.support.exported import CORRELATION, HEAD, HOSTILE
from tests.unit.export.formats.test_cef import parse

SOURCE = Source(origin="o", host="h", version="v")
ENTRY = Entry(7, "ab" * 32, 12, "daemon_started", "", 0, {"pid": 1})

PIECES = (
    "\n", "\r", "\r\n", "\0", "\x1b[2J", "\x1b]0;x\x07", "\x7f", "\x85", "\x9b31m", "\u2028",
    "\u2029", "\u202e", "\ufeff", "\ud800", "\udcff", "|", "\\", "\\|", "=", " a=b", '"', '\\"',
    "]", "] [x", "}", '","forged":"', "CEF:0|a|", "<13>1 - -", "\U0001f600", "é",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec=None)), max_size=8).map(
    "".join
)
# What ends a line for anybody, moves a cursor, turns text around, or is no UTF-8.
ODD = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def told(text: str) -> str:
    """Give a text as every format tells it: surrogates, which are no UTF-8, by their escape."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def visible(text: str) -> str:
    """Give a text as CEF tells it: what may not stand there, and has no escape, by JSON's."""
    return ODD.sub(
        lambda found: found[0] if found[0] in "\n\r" else f"\\u{ord(found[0]):04x}", text
    )


def encode(name: str, text: str) -> list[Event]:
    """Give the events of a denial that says `text` wherever a sandbox may say something."""
    body = denied_to_json(Denied(wall=Wall.SYSCALL, name="socket", detail="", rule="r"))
    opening = {
        "caller": {"name": text, "transport": text},
        "profile": {"name": text, "digest": text, "mode": "enforce"},
        "request": {"argv": [text], "correlation": {"agent": text, "session": text}},
        "host": {"hostname": text, "kernel": text},
    }
    entry = Entry(5, "ab" * 32, 1_700_000_000_123_456_789, Kind.DENIED, "call-1", 3,
                  {**body, "name": text, "detail": text, "rule": text, text: text})  # fmt: skip
    return list(make_format(name, SOURCE).encode(entry, Opening(1, 1, opening), HEAD))


def said(name: str, data: bytes) -> tuple[str, str]:
    """Read an event again; give its rule and its agent."""
    if name == "cef":
        fields = parse(data.decode())
        return fields.get("cs5", ""), fields.get("cs2", "")
    event: Any = json.loads(data)
    if name == "json":
        return event["body"]["rule"], event["call"].get("agent", "")
    place = event["stockade"] if name == "ecs" else event["unmapped"]["stockade"]
    return place.get("rule", ""), place["call"].get("agent", "")


LINES = [name for name in FORMATS if name != "spans"]
"""Formats with an event for each entry."""


def test_each_name_has_a_format_of_its_own() -> None:
    made = {make_format(name, SOURCE).encode(ENTRY, None, Head(0, ""))[0].data for name in LINES}
    assert len(made) == len(LINES) == len(FORMATS) - 1


def test_another_name_has_none() -> None:
    with pytest.raises(ValueError, match="no format 'xml': one of ocsf, "):
        make_format("xml", SOURCE)


@pytest.mark.parametrize("name", LINES)
@given(TEXTS)
def test_what_is_hostile_is_told_on_one_line_and_read_back(name: str, text: str) -> None:
    wanted = visible(told(text)) if name == "cef" else told(text)
    for event in encode(name, text):
        assert not ODD.search(event.data.decode())
        assert len(event.data.splitlines()) == 1
        assert said(name, event.data) == (wanted, wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_an_event_says_whose_it_is(name: str) -> None:
    opening = {"request": {"correlation": {"traceparent": CORRELATION.traceparent}}}
    body = denied_to_json(Denied(wall=Wall.SYSCALL, name="x", detail=HOSTILE))
    entry = Entry(5, "ab" * 32, 1, Kind.DENIED, "call-1", 3, body)
    for event in make_format(name, SOURCE).encode(entry, Opening(1, 1, opening), HEAD):
        assert (event.call, event.traceparent) == ("call-1", CORRELATION.traceparent)
    for event in make_format(name, SOURCE).encode(ENTRY, None, HEAD):
        assert (event.call, event.traceparent) == ("", "")
