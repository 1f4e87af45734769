"""JSON on one line, whatever is in it."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.export.formats.json_line import DEPTH_MAX, TOO_DEEP, encode

ODD = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
TEXTS = st.text(st.characters(codec=None))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(VALUES)
def test_it_is_one_line_that_moves_nothing(value: Any) -> None:
    data = encode(value)
    assert len(data.splitlines()) == 1
    text = data.decode()
    assert len(text.splitlines()) == 1
    assert not ODD.search(text)
    json.loads(text)
    orjson.loads(data)


@given(st.recursive(st.none() | st.text() | st.integers(-(2**63), 2**64 - 1), st.lists))
def test_what_json_can_say_comes_back(value: Any) -> None:
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("\x9b31m\x7f", '"\\u009b31m\\u007f"'),
        ("a\x7f", '"a\\u007f"'),
        ("a\u2028b\u202e", '"a\\u2028b\\u202e"'),
        ("\\\x85", '"\\\\\\u0085"'),
        ("\ud800", '"\\\\ud800"'),
        ({"\udc80": "é"}, '{"\\\\udc80":"é"}'),
        ([2**64, -(2**63) - 1, 2**64 - 1], f'["{2**64}","{-(2**63) - 1}",{2**64 - 1}]'),
    ],
)
def test_what_it_writes(value: Any, told: str) -> None:
    assert encode(value).decode() == told


def test_two_names_stay_two() -> None:
    assert json.loads(encode({"\ud800": 1, "\\ud800": 2})) == {"\\ud800": 1, "\\ud800'": 2}


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def test_what_lies_deep_is_told_as_a_text() -> None:
    told = json.loads(encode(_nested(300)))
    for _ in range(DEPTH_MAX):
        (told,) = told
    assert json.loads(told) == _nested(300 - DEPTH_MAX)


def test_what_lies_too_deep_is_said_to() -> None:
    assert TOO_DEEP.encode() in encode(_nested(100_000))


def test_fragments_stay_as_they_are() -> None:
    assert encode({"a": orjson.Fragment(b'{"b":1}')}) == b'{"a":{"b":1}}'
    assert json.loads(encode({"a": orjson.Fragment(b"[1]"), "b": "\ud800"}))["a"] == [1]
