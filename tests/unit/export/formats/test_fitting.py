"""Events that fit, whatever somebody chose; and those that fit anyway are as ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import Kind
from supervisor.export.event import Entry, Format, Opening
from supervisor.export.formats.fitting import Fitting, shortened
from supervisor.export.formats.make import FORMATS, make_format
from tests.support import ocsf
from tests.support.exported import HEAD, SOURCE, collect

SYSLOG = 7600
"""What a sink of syslog takes where nothing else is said."""

LONG = {"controls": "\x01" * 4096, "emoji": "\U0001f600" * 4096, "quotes": '"\\' * 4096}
LINES = [name for name in FORMATS if name != "spans"]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Entry, Opening | None]]:
    return collect(tmp_path_factory.mktemp("entries"))


def fitting(name: str, bytes_max: int = SYSLOG) -> Fitting:
    def make() -> Format:
        return make_format(name, SOURCE)

    return Fitting(make, bytes_max)


def denied(entries: list[tuple[Entry, Opening | None]], text: str) -> tuple[Entry, Opening | None]:
    for entry, opening in entries:
        if entry.kind == Kind.DENIED:
            more = {"name": text[:256], "detail": text[:2048], "rule": text, "program": text}
            return replace(entry, body={**entry.body, **more}), opening
    raise AssertionError("no denial")


@pytest.mark.parametrize("name", LINES)
def test_what_fits_is_as_it_was(name: str, entries: list[tuple[Entry, Opening | None]]) -> None:
    made_by, fits = make_format(name, SOURCE), fitting(name, 1 << 20)
    for entry, opening in entries:
        assert fits.encode(entry, opening, HEAD) == made_by.encode(entry, opening, HEAD)


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.parametrize("name", LINES)
def test_no_denial_is_too_long_to_be_told(
    name: str, text: str, entries: list[tuple[Entry, Opening | None]]
) -> None:
    entry, opening = denied(entries, text)
    whole = make_format(name, SOURCE).encode(entry, opening, HEAD)
    events = fitting(name).encode(entry, opening, HEAD)
    if name == "ocsf":  # the control: it would not have been told
        assert max(len(event.data) for event in whole) > SYSLOG
    assert max(len(event.data) for event in events) <= SYSLOG
    assert [event.uid for event in events] == [event.uid for event in whole]
    if name != "cef":
        assert entry.leaf.encode() in events[0].data


@pytest.mark.parametrize(("name", "version"), [("ocsf", "1.8.0"), ("ocsf-1.1", "1.1.0")])
def test_what_is_cut_is_still_of_its_class(
    name: str, version: str, entries: list[tuple[Entry, Opening | None]]
) -> None:
    fits = fitting(name, 1500)
    found = {
        problem
        for entry, opening in entries
        for event in fits.encode(entry, opening, HEAD)
        for problem in ocsf.problems(orjson.loads(event.data), version)
    }
    assert found == set()


def test_a_large_list_is_cut_too(entries: list[tuple[Entry, Opening | None]]) -> None:
    policy = {"configuration": {"settings": {f"key-{n}": "x" * 100 for n in range(400)}},
              "profiles": [{"name": f"p{n}", "digest": "ab" * 32} for n in range(400)]}  # fmt: skip
    for entry, opening in entries:
        if entry.kind == Kind.POLICY:
            large = replace(entry, body={**entry.body, "policy": policy})
            for name in LINES:
                events = fitting(name).encode(large, opening, HEAD)
                assert max(len(event.data) for event in events) <= SYSLOG


TEXTS = st.text(max_size=60)
BODIES = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=9), max_size=9)


@given(BODIES)
def test_a_body_is_cut_to_the_bytes_that_it_would_take(body: Mapping[str, Any]) -> None:
    for name, value in shortened(body, 16, 4).items():
        for text in (name, *(value if isinstance(value, list) else [value])):
            if isinstance(text, str):
                assert len(orjson.dumps(text.removesuffix("…"))) - 2 <= 16 + 3
        if isinstance(value, list):
            assert len(value) <= 4
