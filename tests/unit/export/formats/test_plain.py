"""Our own JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import Kind
from supervisor.export.event import Entry, Head, Opening, Source
from supervisor.export.formats.plain import INFORMATIONAL, Plain

FORMAT = Plain(Source(origin="log.example.com/a", host="host", version="1"))
HEAD = Head(size=9, root="cd" * 32)
OPENING = Opening(
    3,
    1,
    {
        "caller": {"name": "agent"},
        "profile": {"name": "python", "digest": "ef"},
        "request": {"argv": ["x"], "correlation": {"agent": "a", "session": "s"}},
    },
)
TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


def entry(kind: str = "denied", call: str = "call-1", **body: Any) -> Entry:
    return Entry(7, "ab" * 32, 12, kind, call, 4, body)


def test_an_entry_says_where_it_lies_and_whose_it_is() -> None:
    (event,) = FORMAT.encode(entry(name="mount"), OPENING, HEAD)
    assert json.loads(event.data) == {
        "uid": event.uid,
        "log": {
            "origin": "log.example.com/a", "host": "host", "version": "1", "index": 7,
            "leaf": "ab" * 32, "head": {"size": 9, "root": "cd" * 32},
        },
        "time_ns": 12, "kind": "denied", "call": "call-1", "sequence": 4,
        "body": {"name": "mount"},
        "of": {
            "caller": {"name": "agent"},
            "profile": {"name": "python", "digest": "ef"},
            "correlation": {"agent": "a", "session": "s"},
        },
    }  # fmt: skip
    assert (event.index, event.last, event.time_ns, event.kind) == (7, True, 12, "denied")


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_an_event(kind: Kind) -> None:
    (event,) = FORMAT.encode(entry(kind=kind), OPENING, HEAD)
    assert 1 <= event.severity <= 6
    assert ("of" in json.loads(event.data)) == (kind is not Kind.INTENT)
    assert (event.severity == INFORMATIONAL) == (kind in {
        "intent", "started", "output", "truncated", "processes", "watched", "flow", "signal",
        "resized", "outcome", "daemon_started", "daemon_stopped", "blob", "policy", "read",
        "key_rotated", "removed", "held", "released", "erased", "witnessed",
    })  # fmt: skip


@given(TEXTS)
def test_whatever_is_in_it_it_is_one_line_and_comes_back(value: Any) -> None:
    (event,) = FORMAT.encode(entry(value=value), None, HEAD)
    assert b"\n" not in event.data and b"\r" not in event.data
    assert json.loads(event.data)["body"]["value"] == value


def test_a_lone_surrogate_and_a_large_integer() -> None:
    for value in ("\ud800", 1 << 80):
        (event,) = FORMAT.encode(entry(value=value), None, HEAD)
        assert json.loads(event.data)["body"]["value"] == value
